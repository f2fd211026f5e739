"""The contract of an attack: what malicious clients do to their data, training and update."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

from torch import Tensor, nn

from simulations.attack.backdoor import Backdoor
from simulations.attack.context import AttackContext
from simulations.attack.updates import Arrays


class Attack(Protocol):
    """Acts three times on a malicious client: on its data, its training and its update.

    Attacks derive from `MaliciousClients`, which has all methods, and replace those that they need.

    Example:
        >>> from simulations.attack import ATTACKS
        >>> ATTACKS["badnets"](malicious=(1, 4)).malicious_clients(num_clients=10, seed=0)
        (1, 4)
    """

    learns_trigger: ClassVar[bool]
    """True for an attack that moves its trigger: `measured` says where to."""

    def malicious_clients(self, num_clients: int, seed: int) -> tuple[int, ...]:
        """Return the malicious partition ids, sorted; the same on server and clients.

        Raises:
            ValueError: if that makes everybody or nobody malicious, or an id does not exist.
        """

    def is_active(self, server_round: int) -> bool:
        """Tell whether anybody attacks in this round; otherwise malicious clients are honest."""

    def attackers(self, server_round: int, num_clients: int, seed: int) -> tuple[int, ...]:
        """Return the malicious partition ids that attack in this round, sorted.

        Raises:
            ValueError: as `malicious_clients`.
        """

    def misfits(self, backdoors: Sequence[Backdoor]) -> Iterator[str]:
        """Yield what this attack cannot plant of the backdoors, a line for each fault."""

    def measured(
        self, backdoors: Sequence[Backdoor], memory: Mapping[str, Tensor]
    ) -> tuple[Backdoor, ...]:
        """Return the backdoors to measure, given what an attacker remembers."""

    def poison(
        self, images: Tensor, labels: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor]:
        """Return the client's poisoned images, uint8 (N, C, H, W), and labels (N,)."""

    def train(
        self, model: nn.Module, images: Tensor, labels: Tensor, context: AttackContext
    ) -> float:
        """Train the received model in place on the poisoned images; return the loss to report."""

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        """Return the arrays to send, made from those received and those trained."""


class Honest:
    """What honest clients do; attacks replace parts of it.

    Example:
        >>> import torch
        >>> images, labels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])
        >>> poisoned, _ = Honest().poison(images, labels, context=None)
        >>> poisoned is images
        True
    """

    learns_trigger: ClassVar[bool] = False

    def misfits(self, backdoors: Sequence[Backdoor]) -> Iterator[str]:
        """Yield nothing: any backdoor will do."""
        del backdoors
        yield from ()

    def measured(
        self, backdoors: Sequence[Backdoor], memory: Mapping[str, Tensor]
    ) -> tuple[Backdoor, ...]:
        """Return the backdoors as they are."""
        del memory
        return tuple(backdoors)

    def poison(
        self, images: Tensor, labels: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor]:
        """Return the data as they are."""
        del context
        return images, labels

    def train(
        self, model: nn.Module, images: Tensor, labels: Tensor, context: AttackContext
    ) -> float:
        """Train with the scenario's settings."""
        return context.training.fit(model, images, labels)

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        """Return the trained arrays."""
        del context
        return trained
