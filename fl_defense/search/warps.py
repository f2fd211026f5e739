"""Smooth warps as triggers over the whole image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fl_defense.search.family import FamilyName, per_image
from fl_defense.validation import require, require_at_least, require_positive


@dataclass(frozen=True, kw_only=True)
class Warps:
    """Smooth fields of displacements: a network that reacts to one reacts to others, too."""

    bar: float = 1.2
    """Gain of one class, in standard deviations of the logits, above which it is a trigger."""
    num_patterns: int = 64
    """Warps that are tried."""
    displacement: float = 0.05
    """Mean displacement along each axis in the search, as a share of the image's shorter side."""
    grid_sides: tuple[int, int] = (2, 6)
    """Fewest and most points of a warp's grid along each side."""

    name: ClassVar[FamilyName] = "warp"

    def __post_init__(self) -> None:
        require_at_least(self, num_patterns=1)
        require_positive(self, "bar", "displacement")
        fewest, most = self.grid_sides
        require(2 <= fewest <= most, "grid_sides", "ascending from 2", self.grid_sides)

    def patterns(self, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        """Return displacements in pixels, (G, 1, 2, H, W)."""
        drawn = [self._draw(1, shape[1:], device) for _ in range(self.num_patterns)]
        return torch.cat(drawn)[:, None]

    def add(self, images: Tensor, patterns: Tensor, strengths: Tensor) -> Tensor:
        """Take each pixel from where its displacement (B or 1, 2, H, W), in pixels, points to."""
        height, width = images.shape[2:]
        rows = torch.linspace(-1, 1, height, device=images.device)
        columns = torch.linspace(-1, 1, width, device=images.device)
        y, x = torch.meshgrid(rows, columns, indexing="ij")  # (H, W) each
        per_pixel = torch.tensor([2 / (width - 1), 2 / (height - 1)], device=images.device)
        moved = (per_image(strengths) * patterns).permute(0, 2, 3, 1) * per_pixel  # (B, H, W, 2)
        sample_at = (torch.stack([x, y], -1) + moved).clamp(-1, 1).expand(len(images), -1, -1, -1)
        return functional.grid_sample(images, sample_at, align_corners=True)

    def draw_like(self, pattern: Tensor, num: int) -> Tensor:
        """Draw fields anew."""
        height, width = pattern.shape[1:]
        return self._draw(num, (height, width), pattern.device)

    def _draw(self, num: int, size: tuple[int, int], device: torch.device) -> Tensor:
        fewest, most = self.grid_sides
        points = int(torch.randint(fewest, most + 1, ()))
        coarse = torch.rand(num, 2, points, points, device=device) * 2 - 1  # (N, 2, P, P)
        coarse = coarse / coarse.abs().mean((1, 2, 3), keepdim=True)
        pixels = self.displacement * min(size) * coarse  # (N, 2, P, P)
        return functional.interpolate(pixels, size, mode="bicubic", align_corners=True)
