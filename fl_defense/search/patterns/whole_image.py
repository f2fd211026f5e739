"""What families share whose patterns cover the whole image and start at random."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fl_defense.validation import require, require_at_least, require_declared, require_positive


class WholeImage:
    """The place of such patterns, their starts, and the ranges of their settings.

    Raises:
        ValueError: if a setting is out of its range.
    """

    amplitude: float
    """How far a pattern goes, in (0, 1]."""
    starts: int
    """Random patterns that the search begins with."""
    bar: float
    """Gain, in spreads of the logits, beyond which a reply stands out from the others."""

    def __post_init__(self) -> None:
        require_declared(self)
        require(0 < self.amplitude <= 1, "amplitude", "in (0, 1]", self.amplitude)
        require_at_least(self, starts=1)
        require_positive(self, "bar")

    def num_starts(self, shape: tuple[int, int, int]) -> int:
        """Return the number of random patterns, the same for images of any shape."""
        del shape
        return self.starts

    def place(self, shape: tuple[int, int, int], start: int) -> tuple[int, int, int, int]:
        """Return top, left, height and width of images of (C, H, W)."""
        del start
        return 0, 0, shape[1], shape[2]

    def starts_near(
        self, shape: tuple[int, int, int], places: Sequence[tuple[int, int, int, int]]
    ) -> Tensor:
        """Return all starts: each covers every place."""
        del shape, places
        return torch.arange(self.starts)
