"""Smooth warps of the whole image, given by a coarse grid of displacements."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fl_defense.search.patterns.whole_image import WholeImage
from fl_defense.validation import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class Displacements(WholeImage):
    """The grid's displacements are free; between its points they are interpolated.

    Example:
        >>> Displacements(starts=4).code_shape((1, 12, 16))
        (2, 5, 5)
    """

    grid: int = 5
    """Points of the grid along each side."""
    amplitude: float = 0.06
    """Largest displacement of a point along each axis, as a share of the image, in (0, 1]."""
    starts: int = 12
    """Random grids that the search begins with."""
    bar: float = 0.8
    """Gain, in spreads of the logits, beyond which a reply stands out from the others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, grid=2)

    @property
    def name(self) -> str:
        """Kind, grid and amplitude."""
        return f"warp {self.grid} {self.amplitude:g}"

    def check(self, shape: tuple[int, int, int]) -> None:
        """Refuse images of fewer pixels than the grid has points."""
        side = min(shape[1:])
        require(self.grid <= side, "grid", f"at most the image's side of {side}", self.grid)

    def code_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Return the shape of a grid, (2, grid, grid)."""
        del shape
        return 2, self.grid, self.grid

    def apply(self, images: Tensor, codes: Tensor, starts: Tensor) -> Tensor:
        """Take each pixel from where its displacement points to."""
        del starts
        height, width = images.shape[2:]
        field = functional.interpolate(codes, (height, width), mode="bicubic", align_corners=True)
        rows = torch.linspace(-1, 1, height, device=images.device)
        columns = torch.linspace(-1, 1, width, device=images.device)
        y, x = torch.meshgrid(rows, columns, indexing="ij")  # (H, W) each
        # The image spans 2 in the units of grid_sample.
        moved = 2 * self.amplitude * field.permute(0, 2, 3, 1)  # (B, H, W, 2)
        sample_at = (torch.stack([x, y], -1) + moved).clamp(-1, 1)  # (B, H, W, 2)
        return functional.grid_sample(images, sample_at, align_corners=True).clamp(0, 1)
