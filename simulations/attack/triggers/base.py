"""The contract of a trigger: what an attacker puts on an image."""

from typing import Protocol

from torch import Tensor


class Trigger(Protocol):
    """Puts a pattern on images in [0, 1], before any normalisation."""

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if the trigger does not fit images of (C, H, W)."""

    def stamp(self, images: Tensor) -> Tensor:
        """Return stamped copies of images (B, C, H, W) in [0, 1], in the same range."""
