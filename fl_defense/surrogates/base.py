"""The contract of surrogate images: images that are no client's."""

from typing import Protocol

from torch import Tensor


class Surrogate(Protocol):
    """Where unlabelled images come from that are no client's.

    Example:
        >>> from fl_defense.surrogates.scenes import Scenes
        >>> Scenes().draw(2, (3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """

    def draw(self, num: int, shape: tuple[int, int, int]) -> Tensor:
        """Return `num` images in [0, 1], shape (num, C, H, W), on the CPU, drawn at random."""
