"""The contract of a trigger: what an attacker puts on an image."""

from collections.abc import Collection
from typing import Protocol, runtime_checkable

from torch import Tensor


class Trigger(Protocol):
    """Puts a pattern on images in [0, 1], before any normalisation.

    Example:
        >>> import torch
        >>> from simulations.attack.triggers import Patch
        >>> Patch(size=2, pattern="solid", margin=0).stamp(torch.zeros(1, 1, 3, 3))[0, 0]
        tensor([[0., 0., 0.],
                [0., 1., 1.],
                [0., 1., 1.]])
    """

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if the trigger does not fit images of (C, H, W)."""

    def stamp(self, images: Tensor) -> Tensor:
        """Return stamped copies of images (B, C, H, W) in [0, 1], in the same range."""


@runtime_checkable
class PartedTrigger(Trigger, Protocol):
    """A trigger of which attackers may stamp parts.

    Example:
        >>> from simulations.attack.triggers import Bars, Patch
        >>> isinstance(Bars(), PartedTrigger), isinstance(Patch(), PartedTrigger)
        (True, False)
    """

    @property
    def num_parts(self) -> int:
        """Number of parts."""

    def only(self, parts: Collection[int]) -> Trigger:
        """Return the trigger with these parts alone, counted from 0."""
