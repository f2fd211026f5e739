"""A free pattern added to the whole image, small in every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_defense.search.patterns.base import whole_image
from fl_defense.validation import require, require_at_least, require_declared, require_positive


@dataclass(frozen=True, kw_only=True)
class Additive:
    """Every pixel of every channel is changed freely within a bound."""

    amplitude: float = 0.12
    """Largest change of a pixel, in (0, 1]."""
    starts: int = 12
    """Random patterns that the search begins with."""
    bar: float = 0.7
    """Gain, in spreads of the logits, beyond which a reply stands out from the others."""

    def __post_init__(self) -> None:
        require_declared(self)
        require(0 < self.amplitude <= 1, "amplitude", "in (0, 1]", self.amplitude)
        require_at_least(self, starts=1)
        require_positive(self, "bar")

    @property
    def name(self) -> str:
        """Kind and amplitude."""
        return f"additive {self.amplitude:g}"

    def check(self, shape: tuple[int, int, int]) -> None:
        """Accept every image."""
        del shape

    def num_starts(self, shape: tuple[int, int, int]) -> int:
        """Return the number of restarts."""
        del shape
        return self.starts

    def code_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Return the shape of an image."""
        return shape

    def apply(self, images: Tensor, codes: Tensor, starts: Tensor) -> Tensor:
        """Add patterns (B, C, H, W)."""
        del starts
        return (images + self.amplitude * codes).clamp(0, 1)

    def place(self, shape: tuple[int, int, int], start: int) -> tuple[int, int, int, int]:
        """Return the whole image."""
        del start
        return whole_image(shape)

    def starts_near(
        self, shape: tuple[int, int, int], places: Sequence[tuple[int, int, int, int]]
    ) -> Tensor:
        """Return all restarts."""
        del places
        return torch.arange(self.num_starts(shape))
