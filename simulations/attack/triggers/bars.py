"""Several small bars: a trigger that has parts."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from fl_defense.validation import require, require_at_least, require_declared


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Bright bars in two rows and two columns, each a part for another attacker (DBA: Xie, 2020).

    Parts count from 0: upper left, upper right, lower left, lower right.

    Example:
        >>> import torch
        >>> bars = Bars(width=2, column_gap=1, row_gap=1)
        >>> bars.only([0]).stamp(torch.zeros(1, 1, 4, 6))[0, 0, 0]
        tensor([1., 1., 0., 0., 0., 0.])
    """

    num_parts: ClassVar[int] = 4
    height: int = 1
    """Pixels of a bar."""
    width: int = 4
    """Pixels of a bar."""
    row_gap: int = 2
    """Pixels between the upper and the lower bars."""
    column_gap: int = 2
    """Pixels between the left and the right bars."""
    position: tuple[int, int] = (0, 0)
    """Row and column of the upper left pixel."""
    brightness: float = 1.0
    """Of the bars, in [0, 1], in every channel."""
    shown: tuple[int, ...] = (0, 1, 2, 3)
    """The parts that are stamped."""

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, height=1, width=1, row_gap=0, column_gap=0)
        require(0 <= self.brightness <= 1, "brightness", "in [0, 1]", self.brightness)
        known = bool(self.shown) and set(self.shown) <= set(range(self.num_parts))
        require(known, "shown", "parts in 0..3", list(self.shown))

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if a bar leaves images of (C, H, W)."""
        _, height, width = input_shape
        row, column = self.position
        bottom = row + 2 * self.height + self.row_gap
        right = column + 2 * self.width + self.column_gap
        if row < 0 or column < 0 or bottom > height or right > width:
            raise ValueError(
                f"bars from row {row}, column {column} to {bottom}, {right} leave a "
                f"{height}x{width} image; choose smaller bars or gaps, or another position"
            )

    def stamp(self, images: Tensor) -> Tensor:
        """Return copies of images (B, C, H, W) in [0, 1] with the bars on them."""
        self.check((images.shape[1], images.shape[2], images.shape[3]))
        stamped = images.clone()
        for part in self.shown:
            row = self.position[0] + part // 2 * (self.height + self.row_gap)
            column = self.position[1] + part % 2 * (self.width + self.column_gap)
            stamped[:, :, row : row + self.height, column : column + self.width] = self.brightness
        return stamped

    def only(self, parts: Collection[int]) -> "Bars":
        """Return the trigger with these parts alone."""
        return replace(self, shown=tuple(parts))
