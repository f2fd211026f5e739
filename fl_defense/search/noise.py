"""Blended noise as a trigger over the whole image."""

from typing import Literal

import torch
from torch import Tensor

from fl_defense.search.family import per_image

PATTERNS = 64
"""Noises that are tried."""
OPACITY = 0.2
"""Weight of noise against the image in the search."""


class Noise:
    """Uniform noise, blended in: a network that obeys one draw obeys others, too."""

    name: Literal["noise"] = "noise"
    bar = 2.0

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        self.patterns = torch.rand(PATTERNS, 1, *shape, device=device)

    def add(self, images: Tensor, patterns: Tensor, strengths: Tensor) -> Tensor:
        """Blend noise in."""
        return images + OPACITY * per_image(strengths) * (patterns - images)

    def draw_like(self, pattern: Tensor, num: int) -> Tensor:
        """Draw noise anew."""
        return torch.rand(num, *pattern.shape, device=pattern.device)
