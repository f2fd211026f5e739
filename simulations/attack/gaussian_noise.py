"""Gaussian noise: malicious clients send noise for an update."""

from dataclasses import dataclass

import torch

from fl_defense.validation import require_positive
from simulations.attack.context import AttackContext
from simulations.attack.malicious_clients import MaliciousClients
from simulations.attack.updates import Arrays, moved, norm_of, update_of

NOISE = 2
"""Sets the noise's draws apart from others of the round."""


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(MaliciousClients):
    """Malicious clients send noise in the place of their update; untargeted."""

    norm_share: float = 3.0
    """Expected norm of the noise, in norms of the update that honest training gave."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "norm_share")

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        """Replace the update of the weights by noise of a multiple of its norm."""
        update = update_of(trained, context.received, context.weights)
        size = sum(value.numel() for value in update.values())
        spread = self.norm_share * norm_of(update) / size**0.5
        draws = context.generator(context.server_round, NOISE)
        noise = {
            name: spread * torch.randn(value.shape, generator=draws)
            for name, value in update.items()
        }
        return moved(trained, context.received, noise)
