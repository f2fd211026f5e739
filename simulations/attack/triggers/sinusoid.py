"""Stripes of sinusoidal brightness."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_defense.validation import require_positive


@dataclass(frozen=True, kw_only=True)
class Sinusoid:
    """Upright stripes of sinusoidal brightness added to the image (SIG: Barni et al., ICIP 2019).

    Column j of m gets `amplitude * sin(2 pi j frequency / m)` in every channel, cut to [0, 1].

    Example:
        >>> Sinusoid(amplitude=0.5, frequency=1).stamp(torch.full((1, 1, 1, 4), 0.5))[0, 0, 0]
        tensor([0.5000, 1.0000, 0.5000, 0.0000])
    """

    amplitude: float = 0.16
    """Largest change of a pixel, in (0, 1]; 40 of 255 by default."""
    frequency: float = 6.0
    """Periods across the width of the image, fewer than half its pixels."""

    def __post_init__(self) -> None:
        if not 0 < self.amplitude <= 1:
            raise ValueError(f"amplitude must be in (0, 1], got {self.amplitude}")
        require_positive(self, "frequency")

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if images of (C, H, W) are too narrow to show the stripes."""
        width = input_shape[2]
        if self.frequency >= width / 2:
            raise ValueError(
                f"frequency must be below half the width of {width} pixels, got {self.frequency}; "
                "choose a lower one"
            )

    def stamp(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [0, 1] with the stripes on them."""
        self.check((images.shape[1], images.shape[2], images.shape[3]))
        width = images.shape[3]
        phase = 2 * math.pi * self.frequency * torch.arange(width) / width
        return (images + self.amplitude * phase.sin().to(images)).clamp(0, 1)
