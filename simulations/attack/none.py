"""No attack: the control."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simulations.attack.backdoor import Backdoor
from simulations.attack.base import Arrays


@dataclass(frozen=True, kw_only=True)
class NoAttack:
    """Everybody is honest: the control."""

    def malicious_clients(self, num_clients: int, seed: int) -> tuple[int, ...]:
        """Return nobody."""
        del num_clients, seed
        return ()

    def is_active(self, server_round: int) -> bool:
        """Return False."""
        del server_round
        return False

    def poison(
        self,
        images: Tensor,
        labels: Tensor,
        backdoors: Sequence[Backdoor],
        num_classes: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return the data as they are."""
        del backdoors, num_classes, generator
        return images, labels

    def craft(self, received: Arrays, trained: Arrays, weights: Collection[str]) -> Arrays:
        """Return the trained arrays."""
        del received, weights
        return trained
