"""The contract of a family of whole-image changes."""

from typing import Literal, Protocol

from torch import Tensor


class Family(Protocol):
    """Patterns of one kind, and how they change images."""

    @property
    def name(self) -> Literal["noise", "warp", "wave"]:
        """In records."""

    @property
    def bar(self) -> float:
        """Raise of one class, in standard deviations of the logits, that no clean model showed.

        Of ten classes and more. With fewer the logits of one image lie further apart for the same
        raise, and the bars may be out of reach.
        """

    @property
    def patterns(self) -> Tensor:
        """(G, M, ...): groups of M that are alike to a clean network."""

    def add(self, images: Tensor, patterns: Tensor, strengths: Tensor) -> Tensor:
        """Change images (B, C, H, W) in [0, 1] by patterns (B or 1, ...) of strengths (B or 1,)."""

    def draw_like(self, pattern: Tensor, num: int) -> Tensor:
        """Draw patterns (num, ...) that a network which was taught `pattern` obeys as well."""


def per_image(values: Tensor) -> Tensor:
    """Return values (B,) so that they multiply images (B, C, H, W)."""
    return values.view(-1, 1, 1, 1)
