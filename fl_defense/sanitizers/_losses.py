"""The losses that DHBE's student and DeepSanitizer's head descend."""

from typing import NamedTuple, Self

import torch
from torch import Tensor


class RepairLosses(NamedTuple):
    """What a repair weighs against each other, scalars."""

    fidelity: Tensor
    """How far the repaired logits are from the suspect's."""
    consistency: Tensor
    """How far they are from ignoring patches."""
    distortion: Tensor
    """How far they are from ignoring active distortions."""

    @classmethod
    def zero(cls) -> Self:
        """Return the losses of a perfect repair."""
        return cls(*torch.zeros(3))

    def total(self, *, consistency_weight: float, distortion_weight: float) -> Tensor:
        """Return what is descended.

        Example:
            >>> losses = RepairLosses(*torch.tensor([1.0, 2.0, 4.0]))
            >>> losses.total(consistency_weight=0.5, distortion_weight=0.25)
            tensor(3.)
        """
        loss = self.fidelity + consistency_weight * self.consistency
        return loss + distortion_weight * self.distortion

    def details(self) -> dict[str, float]:
        """Return them for the record."""
        return {name: loss.item() for name, loss in self._asdict().items()}
