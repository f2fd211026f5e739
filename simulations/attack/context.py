"""What a malicious client knows when it acts, and the training that it may bend."""

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.model.spec import ModelSpec
from simulations.attack.backdoor import Backdoor
from simulations.attack.updates import Arrays


class Steps:
    """The parts of a step of training that an attack may replace; as they stand, honest training.

    Example:
        >>> class Gentle(Steps):
        ...     def after_backward(self, model):
        ...         for weight in model.parameters():
        ...             weight.grad *= 0.5
        >>> Gentle().loss(nn.Identity(), torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor(0.6931)
    """

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of one batch: normalised inputs (B, C, H, W), labels (B,)."""
        return functional.cross_entropy(model(inputs).float(), labels)

    def after_backward(self, model: nn.Module) -> None:
        """Change the gradients before the optimiser uses them."""

    def after_step(self, model: nn.Module) -> None:
        """Change the weights after the optimiser moved them."""


class LocalTraining(Protocol):
    """Trains as an honest client would: batches, optimiser and augmentation of the scenario.

    Example:
        >>> class Nothing:
        ...     def fit(self, model, images, labels, steps=None, **options):
        ...         return 0.0
        >>> training: LocalTraining = Nothing()
        >>> training.fit(nn.Identity(), torch.zeros(0), torch.zeros(0))
        0.0
    """

    def fit(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        steps: Steps | None = None,
        *,
        draws: torch.Generator | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
    ) -> float:
        """Train in place.

        Args:
            model: on the device on which it is to be trained.
            images: uint8 (N, C, H, W).
            labels: (N,).
            steps: loss and hooks of a step; None: honest ones.
            draws: shuffles and augments; None: the client's own generator of this round, which
                every honest step uses. Give another for training beside it.
            epochs: passes over the images; None: the scenario's epochs or steps.
            learning_rate: of the optimizer; None: the scenario's of this round.

        Returns:
            The mean loss of the last pass over the images.
        """


@dataclass(frozen=True, kw_only=True)
class AttackContext:
    """All that a malicious client knows in one round.

    Attackers collude: each knows the others' partitions and data, never an honest client's. What
    two of them compute from the same arguments is therefore the same.

    Example:
        >>> from dataclasses import fields
        >>> [field.name for field in fields(AttackContext)][:3]
        ['partition', 'server_round', 'attackers']
    """

    partition: int
    """This client's partition id."""
    server_round: int
    """Counted from 1."""
    attackers: tuple[int, ...]
    """Partition ids that attack in this round, sorted; this client is one of them."""
    malicious: tuple[int, ...]
    """Partition ids of all malicious clients, sorted, also of those that rest in this round."""
    num_clients: int
    """Clients in the federation."""
    num_replies: int
    """Clients asked in each round."""
    received: Arrays
    """The global model's arrays, on the CPU."""
    weights: frozenset[str]
    """Names of the arrays that are trained by gradients; the others are buffers."""
    seed: int
    """The scenario's."""
    backdoors: tuple[Backdoor, ...]
    """What is to be planted, and is measured."""
    spec: ModelSpec
    """The model's structure, images and classes."""
    training: LocalTraining
    """Trains as an honest client would."""
    data_of: Callable[[int], tuple[Tensor, Tensor]]
    """From an attacker's partition to its clean images, uint8 (N, C, H, W), and labels (N,)."""
    memory: MutableMapping[str, Tensor]
    """What this client keeps for later rounds. Flower keeps it in `Context.state`; a run that is
    resumed begins with an empty one."""
    device: torch.device
    """Where clients train."""

    @property
    def rank(self) -> int:
        """Position of this client among the round's attackers, from 0."""
        return self.attackers.index(self.partition)

    @property
    def num_classes(self) -> int:
        """Classes of the data set."""
        return self.spec.num_classes

    def received_model(self) -> nn.Module:
        """Build the global model as it was received, on the device."""
        with torch.random.fork_rng(devices=[]):  # building draws weights that are overwritten
            model = self.spec.build()
        model.load_state_dict(self.received)
        return model.to(self.device)

    def generator(self, *numbers: int) -> torch.Generator:
        """Return a generator seeded by the scenario's seed, this partition and `numbers`.

        Without numbers it is the same in every round.
        """
        return generator_of(self.seed, self.partition, *numbers)

    def shared_generator(self, *numbers: int) -> torch.Generator:
        """Return a generator that is the same for all of the round's attackers."""
        return generator_of(self.seed, self.attackers[0], *numbers)


def generator_of(*numbers: int) -> torch.Generator:
    """Return a generator seeded by several numbers, without the collisions of adding them.

    Example:
        >>> one, other = generator_of(0, 1), generator_of(1, 0)
        >>> torch.rand(1, generator=one) == torch.rand(1, generator=other)
        tensor([False])
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator().manual_seed(seed)
