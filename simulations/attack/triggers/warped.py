"""A smooth distortion of the image."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fl_defense.validation import require_at_least, require_positive


@dataclass(frozen=True, kw_only=True)
class Warped:
    """The same smooth distortion of every image (WaNet: Nguyen and Tran, ICLR 2021).

    Displacements are drawn uniformly for a coarse grid, scaled to a mean size, and interpolated
    between its points; no image is sampled from beyond its border. The default is stronger than the
    paper's quarter of a pixel, which takes the paper's own training to plant.

    Example:
        >>> gray = torch.full((1, 1, 8, 8), 0.5)
        >>> bool(Warped(strength=2.0).stamp(gray).sub(gray).abs().max() < 1e-6)  # nothing to see
        True
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
