"""A free pattern added to the whole image, small in every pixel."""

from dataclasses import dataclass

from torch import Tensor

from fl_defense.search.patterns.whole_image import WholeImage


@dataclass(frozen=True, kw_only=True)
class Additive(WholeImage):
    """Every pixel of every channel is changed freely within a bound.

    Example:
        >>> Additive(starts=4).code_shape((1, 12, 16))
        (1, 12, 16)
    """

    amplitude: float = 0.12
    """Largest change of a pixel, in (0, 1]."""
    starts: int = 12
    """Random patterns that the search begins with."""
    bar: float = 0.7
    """Gain, in spreads of the logits, beyond which a reply stands out from the others."""

    @property
    def name(self) -> str:
        """Kind and amplitude."""
        return f"additive {self.amplitude:g}"

    def check(self, shape: tuple[int, int, int]) -> None:
        """Accept every image."""
        del shape

    def code_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Return the shape of an image."""
        return shape

    def apply(self, images: Tensor, codes: Tensor, starts: Tensor) -> Tensor:
        """Add patterns (B, C, H, W)."""
        del starts
        return (images + self.amplitude * codes).clamp(0, 1)
