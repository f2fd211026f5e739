"""Smooth warps as triggers over the whole image."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from fl_defense.search.family import per_image

PATTERNS = 64
"""Warps that are tried."""
WARP = 0.05
"""Mean displacement along each axis in the search, as a share of the image's shorter side."""
WARP_GRIDS = (2, 6)
"""Fewest and most points of a warp's grid along each side."""


class Warps:
    """Smooth fields of displacements: a network that obeys one obeys others, too."""

    name: Literal["warp"] = "warp"
    bar = 1.2

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        self.size = shape[1:]
        self.patterns = torch.cat([self._draw(1, device) for _ in range(PATTERNS)])[:, None]

    def add(self, images: Tensor, patterns: Tensor, strengths: Tensor) -> Tensor:
        """Take each pixel from where its displacement (B or 1, 2, H, W), in pixels, points to."""
        height, width = self.size
        rows = torch.linspace(-1, 1, height, device=images.device)
        columns = torch.linspace(-1, 1, width, device=images.device)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        per_pixel = torch.tensor([2 / (width - 1), 2 / (height - 1)], device=images.device)
        moved = (per_image(strengths) * patterns).permute(0, 2, 3, 1) * per_pixel
        sample_at = (torch.stack([x, y], -1) + moved).clamp(-1, 1).expand(len(images), -1, -1, -1)
        return functional.grid_sample(images, sample_at, align_corners=True)

    def draw_like(self, pattern: Tensor, num: int) -> Tensor:
        """Draw fields anew."""
        return self._draw(num, pattern.device)

    def _draw(self, num: int, device: torch.device) -> Tensor:
        points = int(torch.randint(WARP_GRIDS[0], WARP_GRIDS[1] + 1, ()))
        coarse = torch.rand(num, 2, points, points, device=device) * 2 - 1
        coarse = coarse / coarse.abs().mean((1, 2, 3), keepdim=True)
        pixels = WARP * min(self.size) * coarse
        return functional.interpolate(pixels, self.size, mode="bicubic", align_corners=True)
