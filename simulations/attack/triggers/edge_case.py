"""Images of another kind in the place of the image: an edge case that needs no trigger."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from fl_defense.validation import require_at_least

NUM_SHIFTS = 5
"""Rows and columns by which a digit may be shifted: -2 to 2 pixels."""


@dataclass(frozen=True, kw_only=True)
class EdgeCase:
    """A handwritten digit instead of the image (edge-case backdoors: Wang et al., NeurIPS 2020).

    Nothing is stamped: images that honest clients hardly ever have, scikit-learn's digits, are to
    be called the target. Which digit takes an image's place, and how it is shifted, follows from
    the image's pixels. The robust accuracy has no meaning here, for a digit has no class among the
    data's. Not for data that are digits themselves.

    Example:
        >>> EdgeCase(digit=7).stamp(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """

    digit: int = 7
    """Which of the ten."""

    def __post_init__(self) -> None:
        require_at_least(self, digit=0)
        if self.digit > 9:
            raise ValueError(f"digit must be in 0..9, got {self.digit}")

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if images of (C, H, W) are smaller than the digits' 8x8 pixels."""
        if min(input_shape[1:]) < 8:
            raise ValueError(
                "edge-case needs images of at least 8x8 pixels; choose another trigger"
            )

    def stamp(self, images: Tensor) -> Tensor:
        """Return digits in the form of the images (B, C, H, W), in [0, 1]."""
        shape = (images.shape[2], images.shape[3])
        digits = _digits(self.digit, *shape).to(images)
        number = (images * 255).round().long().flatten(1)
        places = torch.arange(number.shape[1], device=images.device) % 1009 + 1
        hashed = (number * places).sum(1)
        chosen = digits[hashed % len(digits)]
        shifts = hashed // len(digits) % NUM_SHIFTS**2
        shifted = [
            image.roll((int(shift) // NUM_SHIFTS - 2, int(shift) % NUM_SHIFTS - 2), (1, 2))
            for image, shift in zip(chosen, shifts, strict=True)
        ]
        return torch.stack(shifted).expand_as(images).clone() if shifted else images.clone()


@cache
def _digits(digit: int, height: int, width: int) -> Tensor:
    """Read all images of one digit from scikit-learn's package: (N, 1, H, W) in [0, 1]."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images[found.target == digit], dtype=torch.float32)[:, None] / 16
    size = (height, width)
    return functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
