"""Blended noise as a trigger over the whole image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fl_defense.search.family import FamilyName, per_image
from fl_defense.validation import require_at_least, require_positive


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Uniform noise, blended in: a network that reacts to one draw reacts to others, too."""

    bar: float = 2.0
    """Gain of one class, in standard deviations of the logits, above which it is a trigger."""
    num_patterns: int = 64
    """Draws of noise that are tried."""
    opacity: float = 0.2
    """Weight of noise against the image in the search."""

    name: ClassVar[FamilyName] = "noise"

    def __post_init__(self) -> None:
        require_at_least(self, num_patterns=1)
        require_positive(self, "bar", "opacity")

    def patterns(self, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        """Return noise, (G, 1, C, H, W)."""
        return torch.rand(self.num_patterns, 1, *shape, device=device)

    def add(self, images: Tensor, patterns: Tensor, strengths: Tensor) -> Tensor:
        """Blend noise in."""
        return images + self.opacity * per_image(strengths) * (patterns - images)

    def draw_like(self, pattern: Tensor, num: int) -> Tensor:
        """Draw noise anew."""
        return torch.rand(num, *pattern.shape, device=pattern.device)
