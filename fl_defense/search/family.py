"""The contract of a family of whole-image patterns."""

from typing import Literal, Protocol

import torch
from torch import Tensor

FamilyName = Literal["noise", "warp", "wave"]


class Family(Protocol):
    """Patterns of one kind, and how they change images; a frozen dataclass of settings."""

    @property
    def name(self) -> FamilyName:
        """In records."""

    @property
    def bar(self) -> float:
        """Gain of one class, in standard deviations of the logits, that no clean model showed.

        Of ten classes and more. With fewer the logits of one image lie further apart for the same
        gain, and the bars may be out of reach.
        """

    def patterns(self, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        """Return patterns to try, (G, M, ...): G groups of M that are alike to a clean network."""

    def add(self, images: Tensor, patterns: Tensor, strengths: Tensor) -> Tensor:
        """Change images (B, C, H, W) in [0, 1] by patterns (B or 1, ...) of strengths (B or 1,)."""

    def draw_like(self, pattern: Tensor, num: int) -> Tensor:
        """Draw patterns (num, ...) to which a network that was taught `pattern` reacts as well."""


def per_image(values: Tensor) -> Tensor:
    """Return values (B,) so that they multiply images (B, C, H, W)."""
    return values.view(-1, 1, 1, 1)
