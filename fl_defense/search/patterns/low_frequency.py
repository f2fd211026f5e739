"""Smooth patterns over the whole image: a sum of its lowest cosine waves."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_defense.search.patterns.whole_image import WholeImage
from fl_defense.validation import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class LowFrequency(WholeImage):
    """The coefficients of the lowest waves are free: stripes of any phase and direction are sums.

    The basis is that of the discrete cosine transform, whose waves have half periods.

    Example:
        >>> LowFrequency(starts=4).code_shape((1, 12, 16))
        (1, 12, 12)
    """

    waves: int = 12
    """Waves along each axis, the constant included."""
    amplitude: float = 0.15
    """Largest change of a pixel, in (0, 1]."""
    starts: int = 12
    """Random patterns that the search begins with."""
    bar: float = 0.4
    """Gain, in spreads of the logits, beyond which a reply stands out from the others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, waves=2)

    @property
    def name(self) -> str:
        """Kind, waves and amplitude."""
        return f"low-frequency {self.waves} {self.amplitude:g}"

    def check(self, shape: tuple[int, int, int]) -> None:
        """Refuse images of fewer pixels than waves."""
        side = min(shape[1:])
        require(self.waves <= side, "waves", f"at most the image's side of {side}", self.waves)

    def code_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Return the shape of the coefficients, (C, waves, waves)."""
        return shape[0], self.waves, self.waves

    def apply(self, images: Tensor, codes: Tensor, starts: Tensor) -> Tensor:
        """Add the sum of waves, scaled so that its largest value is the amplitude."""
        del starts
        rows = _cosines(images.shape[2], self.waves).to(images)  # (waves, H)
        columns = _cosines(images.shape[3], self.waves).to(images)  # (waves, W)
        summed = torch.einsum("bcij,ih,jw->bchw", codes, rows, columns)  # (B, C, H, W)
        largest = summed.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-6)  # (B, 1, 1, 1)
        return (images + self.amplitude * summed / largest).clamp(0, 1)


def _cosines(length: int, num: int) -> Tensor:
    """Return the first cosines of the DCT-II along an axis, (num, length)."""
    pixels = (torch.arange(length) + 0.5) / length
    return (math.pi * torch.arange(num)[:, None] * pixels).cos()
