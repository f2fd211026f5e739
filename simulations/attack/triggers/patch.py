"""A small patch that replaces pixels."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fl_defense.validation import require_at_least, require_declared


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A small square that replaces pixels (BadNets: Gu et al., 2017).

    Example:
        >>> Patch(size=1, position="center").stamp(torch.zeros(1, 1, 3, 3))[0, 0]
        tensor([[0., 0., 0.],
                [0., 1., 0.],
                [0., 0., 0.]])
    """

    size: int = 3
    """Height and width in pixels."""
    position: (
        Literal["top-left", "top-right", "bottom-left", "bottom-right", "center"] | tuple[int, int]
    ) = "bottom-right"
    """A corner, the center, or [row, column] of the upper left pixel."""
    margin: int = 1
    """Pixels between the patch and the border, for the four corners."""
    pattern: Literal["checkerboard", "solid", "random"] = "checkerboard"
    """Checkerboard of 0 and 1, all 1, or a fixed random 0/1 pattern."""
    color: tuple[float, ...] = (1.0,)
    """Brightness of the pattern's ones in [0, 1]: one number, or one per channel."""

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, size=1, margin=0)
        if not self.color or not all(0 <= value <= 1 for value in self.color):
            raise ValueError(f"color must be numbers in [0, 1], got {list(self.color)}")

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if the patch leaves the image or its color has other channels."""
        channels, height, width = input_shape
        row, column = self.corner(height, width)
        if row < 0 or column < 0 or row + self.size > height or column + self.size > width:
            raise ValueError(
                f"size {self.size} at row {row}, column {column} leaves a {height}x{width} image; "
                "choose a smaller size or margin, or another position"
            )
        if len(self.color) not in (1, channels):
            raise ValueError(f"color must have 1 or {channels} numbers, got {len(self.color)}")

    def stamp(self, images: Tensor) -> Tensor:
        """Return copies of images (B, C, H, W) in [0, 1] with the patch on them."""
        self.check((images.shape[1], images.shape[2], images.shape[3]))
        row, column = self.corner(images.shape[2], images.shape[3])
        color = images.new_tensor(self.color).view(-1, 1, 1)
        stamped = images.clone()
        stamped[:, :, row : row + self.size, column : column + self.size] = color * self._ones(
            images
        )
        return stamped

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """Return row and column of the patch's upper left pixel in an image of this size."""
        if isinstance(self.position, tuple):
            return self.position
        if self.position == "center":
            return (height - self.size) // 2, (width - self.size) // 2
        top, left = self.margin, self.margin
        bottom, right = height - self.size - self.margin, width - self.size - self.margin
        vertical, horizontal = self.position.split("-")
        return (top if vertical == "top" else bottom), (left if horizontal == "left" else right)

    def _ones(self, like: Tensor) -> Tensor:
        if self.pattern == "solid":
            ones = torch.ones(self.size, self.size)
        elif self.pattern == "random":
            ones = torch.randint(
                2, (self.size, self.size), generator=torch.Generator().manual_seed(0)
            )
        else:
            steps = torch.arange(self.size)
            ones = (steps[:, None] + steps[None, :] + 1) % 2
        return ones.to(like)
