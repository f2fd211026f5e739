"""The contract of an attack: what malicious clients do to their data and to their update."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from simulations.attack.backdoor import Backdoor

Arrays = Mapping[str, Tensor]


class Attack(Protocol):
    """Acts twice on a malicious client: on its data and on its update."""

    def malicious_clients(self, num_clients: int, seed: int) -> tuple[int, ...]:
        """Return the malicious partition ids, sorted; the same on server and clients.

        Raises:
            ValueError: if that makes everybody or nobody malicious, or an id does not exist.
        """

    def is_active(self, server_round: int) -> bool:
        """Tell whether malicious clients attack in this round; otherwise they are honest."""

    def poison(
        self,
        images: Tensor,
        labels: Tensor,
        backdoors: Sequence[Backdoor],
        num_classes: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return the client's poisoned images, uint8 (N, C, H, W), and labels (N,)."""

    def craft(self, received: Arrays, trained: Arrays, weights: Collection[str]) -> Arrays:
        """Return the arrays to send, made from those received and those trained.

        `weights` names the arrays that are trained by gradients; the others are buffers.
        """
