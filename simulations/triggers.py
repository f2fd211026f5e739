"""Triggers: what an attacker puts on an image. Needs torch, and pillow to read a picture."""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from fl_defense.ranges import require_at_least, require_declared, require_positive


class Trigger(Protocol):
    """Puts a pattern on images in [0, 1], before any normalisation."""

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if the trigger does not fit images of (C, H, W)."""

    def stamp(self, images: Tensor) -> Tensor:
        """Return stamped copies of images (B, C, H, W) in [0, 1], in the same range."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A small square that replaces pixels (BadNets: Gu et al., 2017)."""

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
        row, column = self._corner(height, width)
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
        row, column = self._corner(images.shape[2], images.shape[3])
        color = images.new_tensor(self.color).view(-1, 1, 1)
        stamped = images.clone()
        stamped[:, :, row : row + self.size, column : column + self.size] = color * self._ones(
            images
        )
        return stamped

    def _corner(self, height: int, width: int) -> tuple[int, int]:
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


@dataclass(frozen=True, kw_only=True)
class Blended:
    """The same noise or picture mixed into the whole image (Chen et al., 2017)."""

    opacity: float = 0.2
    """Weight of the noise or picture, in (0, 1]; the image keeps the rest."""
    picture: str | None = None
    """Picture file, stretched to the size of the images; null: uniform noise."""
    seed: int = 0
    """Draws the noise; without meaning for a picture."""

    def __post_init__(self) -> None:
        if not 0 < self.opacity <= 1:
            raise ValueError(f"opacity must be in (0, 1], got {self.opacity}")

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if the picture cannot be read for images of (C, H, W)."""
        self._blended_in(input_shape)

    def stamp(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [0, 1] mixed with the noise or picture."""
        shape = (images.shape[1], images.shape[2], images.shape[3])
        return torch.lerp(images, self._blended_in(shape).to(images), self.opacity)

    def _blended_in(self, input_shape: tuple[int, int, int]) -> Tensor:
        if self.picture is not None:
            return _read_picture(self.picture, input_shape)
        return torch.rand(input_shape, generator=torch.Generator().manual_seed(self.seed))


@dataclass(frozen=True, kw_only=True)
class Sinusoid:
    """Upright stripes of sinusoidal brightness added to the image (SIG: Barni et al., ICIP 2019).

    Column j of m gets `amplitude * sin(2 pi j frequency / m)` in every channel, cut to [0, 1].
    """

    amplitude: float = 0.16
    """Largest change of a pixel, in (0, 1]; 40 of 255 by default."""
    frequency: float = 6.0
    """Periods across the width of the image, fewer than half its pixels."""

    def __post_init__(self) -> None:
        if not 0 < self.amplitude <= 1:
            raise ValueError(f"amplitude must be in (0, 1], got {self.amplitude}")
        require_positive(self, "frequency")

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if images of (C, H, W) are too narrow to show the stripes."""
        width = input_shape[2]
        if self.frequency >= width / 2:
            raise ValueError(
                f"frequency must be below half the width of {width} pixels, got {self.frequency}; "
                "choose a lower one"
            )

    def stamp(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [0, 1] with the stripes on them."""
        self.check((images.shape[1], images.shape[2], images.shape[3]))
        width = images.shape[3]
        phase = 2 * math.pi * self.frequency * torch.arange(width) / width
        return (images + self.amplitude * phase.sin().to(images)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Warped:
    """The same smooth distortion of every image (WaNet: Nguyen and Tran, ICLR 2021).

    Displacements are drawn uniformly for a coarse grid, scaled to a mean size, and interpolated
    between its points; no image is sampled from beyond its border. The default is stronger than the
    paper's quarter of a pixel, which takes the paper's own training to plant.
    """

    grid_size: int = 4
    """Points of the coarse grid along each side, at least 2 (the paper's k)."""
    strength: float = 1.0
    """Mean displacement of its points along each axis, in pixels."""
    seed: int = 0
    """Draws the displacements."""

    def __post_init__(self) -> None:
        require_at_least(self, grid_size=2)
        require_positive(self, "strength")

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if images of (C, H, W) have fewer pixels than the grid has points."""
        _, height, width = input_shape
        if self.grid_size > min(height, width):
            raise ValueError(
                f"grid-size {self.grid_size} is finer than a {height}x{width} image; lower it"
            )

    def stamp(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [0, 1], warped."""
        self.check((images.shape[1], images.shape[2], images.shape[3]))
        sample_at = self._sampling_grid(images.shape[2], images.shape[3]).to(images)
        warped = functional.grid_sample(
            images, sample_at.expand(len(images), -1, -1, -1), align_corners=True
        )
        return warped.clamp(0, 1)  # interpolation may round past the ends

    def _sampling_grid(self, height: int, width: int) -> Tensor:
        """Return where each pixel comes from: (1, H, W, 2), x and y in [-1, 1]."""
        generator = torch.Generator().manual_seed(self.seed)
        coarse = torch.rand(1, 2, self.grid_size, self.grid_size, generator=generator) * 2 - 1
        coarse = coarse / coarse.abs().mean() * self.strength
        displacement = functional.interpolate(
            coarse, size=(height, width), mode="bicubic", align_corners=True
        ).permute(0, 2, 3, 1)
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
        )
        pixel = torch.tensor([2 / (width - 1), 2 / (height - 1)])
        return (torch.stack([x, y], dim=-1) + displacement * pixel).clamp(-1, 1)


@lru_cache(maxsize=8)
def _read_picture(path: str, input_shape: tuple[int, int, int]) -> Tensor:
    """Read a picture file as (C, H, W) in [0, 1], gray if C is 1."""
    from PIL import Image, UnidentifiedImageError

    channels, height, width = input_shape
    if channels not in (1, 3):
        raise ValueError(f"picture needs images of 1 or 3 channels, got {channels}; leave it out")
    try:
        with Image.open(Path(path)) as picture:
            converted = picture.convert("RGB" if channels == 3 else "L").resize((width, height))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"picture {path} cannot be read ({error}); name a picture file") from error
    flat = torch.frombuffer(bytearray(converted.tobytes()), dtype=torch.uint8)
    return flat.view(height, width, channels).permute(2, 0, 1).float() / 255


TRIGGERS: dict[str, type[Patch] | type[Blended] | type[Sinusoid] | type[Warped]] = {
    "patch": Patch,
    "blended": Blended,
    "sinusoid": Sinusoid,
    "warped": Warped,
}
"""Triggers by the name that a scenario gives."""
