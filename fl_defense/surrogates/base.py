"""The contract of surrogate images: images that are no client's."""

from typing import Protocol

from torch import Tensor


class Surrogate(Protocol):
    """Where unlabelled images come from that are no client's."""

    def draw(self, num: int, shape: tuple[int, int, int]) -> Tensor:
        """Return `num` images in [0, 1], shape (num, C, H, W), on the CPU, drawn at random."""
