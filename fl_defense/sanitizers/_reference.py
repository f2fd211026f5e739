"""What DHBE and DeepSanitizer measure a suspect against: nothing, or an earlier model."""

from typing import Protocol

import torch
from torch import Tensor, nn

from fl_defense.model.batches import in_chunks
from fl_defense.model.counting import CountingModel
from fl_defense.model.precision import Execution
from fl_defense.model.spec import Pixels
from fl_defense.model.training import frozen_copy
from fl_defense.search.probe import DifferenceProbe, NetworkProbe, Probe
from fl_defense.surrogates.pool import ScenePool


class Comparison(Protocol):
    """What of a network's reaction to patterns is its own."""

    @property
    def forward_images(self) -> float:
        """Images passed through the reference so far."""

    def probe(self, network: nn.Module, pool: ScenePool) -> Probe:
        """Return what patterns do to a network, less what is not its own.

        Args:
            network: in eval mode.
            pool: scenes with the logits that its logits are compared with.
        """

    def reaction(self, changed: Tensor, inputs: Tensor) -> Tensor:
        """Return how far logits change by nature: (B, K), or a 0 that broadcasts.

        Args:
            changed: normalised inputs (B, C, H, W) with patterns; gradients pass back to them.
            inputs: the same without.
        """

    def spread(self, pool: ScenePool) -> float:
        """Return the standard deviation of the logits of a scene that gains are measured in."""


class Alone:
    """There is no reference: the whole reaction is the network's own."""

    forward_images = 0.0
    """There is none to pass images through."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    def probe(self, network: nn.Module, pool: ScenePool) -> Probe:
        """Return what patterns do to the network."""
        return NetworkProbe(network, pool, self.pixels)

    def reaction(self, changed: Tensor, inputs: Tensor) -> Tensor:
        """Return 0."""
        del inputs
        return torch.zeros((), device=changed.device)

    def spread(self, pool: ScenePool) -> float:
        """Return the network's."""
        return pool.spread()


class AgainstReference:
    """The network's own is what it does more than the reference on the same scenes.

    Args:
        reference: an earlier model; it is copied.
        execution: how its logits are computed.
        pixels: normalisation of inputs.
    """

    def __init__(self, reference: nn.Module, execution: Execution, pixels: Pixels) -> None:
        self.network = CountingModel(execution.of(frozen_copy(reference)))
        self.pixels = pixels
        self._pools: dict[int, tuple[ScenePool, ScenePool]] = {}

    @property
    def forward_images(self) -> float:
        """Images passed through the reference so far."""
        return self.network.forward_images

    def probe(self, network: nn.Module, pool: ScenePool) -> Probe:
        """Return what patterns do to the network more than to the reference."""
        return DifferenceProbe(
            NetworkProbe(network, pool, self.pixels),
            NetworkProbe(self.network, self._answered(pool), self.pixels),
        )

    def reaction(self, changed: Tensor, inputs: Tensor) -> Tensor:
        """Return the change of the reference's logits."""
        with torch.no_grad():
            plain: Tensor = self.network(inputs)
        logits: Tensor = self.network(changed)
        return logits - plain

    def spread(self, pool: ScenePool) -> float:
        """Return the larger one: an immature reference says nearly the same to everything."""
        return max(pool.spread(), self._answered(pool).spread())

    def _answered(self, pool: ScenePool) -> ScenePool:
        """Return the same scenes with the reference's logits, computed once."""
        if id(pool) not in self._pools:
            answered = ScenePool(pool.inputs, in_chunks(self.network, pool.inputs))
            self._pools[id(pool)] = pool, answered
        return self._pools[id(pool)][1]


def compared_with(reference: nn.Module | None, execution: Execution, pixels: Pixels) -> Comparison:
    """Return the comparison with a reference, if there is one."""
    if reference is None:
        return Alone(pixels)
    return AgainstReference(reference, execution, pixels)
