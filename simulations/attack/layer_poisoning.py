"""LP: only the layers that carry the backdoor are poisoned, the others are honest."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_defense.model.deployed import DeployedModel, predict
from fl_defense.validation import require_at_least
from simulations.attack.context import AttackContext
from simulations.attack.data_poisoning import DataPoisoning, draw_indices
from simulations.attack.honest_training import honest_arrays
from simulations.attack.updates import Arrays

BATCH_SIZE = 256
"""Images at a time while success is measured."""
TRIED = 3
"""Sets the draw of the images on which success is measured apart from others."""


@dataclass(frozen=True, kw_only=True)
class LayerPoisoning(DataPoisoning):
    """Attackers poison only the layers that carry the backdoor (LP: Zhuang et al., ICLR 2024).

    Each layer of the poisoned model is replaced by that of an honestly trained one; by how much
    success falls is the layer's weight in the backdoor. Poisoned layers are put into the honest
    model, the weightiest first, until it succeeds nearly as often. All is measured on the
    attacker's own images. A layer is a module with weights; buffers are the honest model's.
    """

    enough: float = 0.95
    """Share of the poisoned model's success that the layers chosen must reach, in (0, 1] (the
    paper's tau)."""
    factor: float = 1.0
    """Factor on the poisoned layers' update; below 1 the honest update has the rest (lambda)."""
    num_images: int = 256
    """Most own images on which success is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.enough <= 1:
            raise ValueError(f"enough must be in (0, 1], got {self.enough}")
        if self.factor <= 0:
            raise ValueError(f"factor must be positive, got {self.factor}")
        require_at_least(self, num_images=1)

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        """Send the honest model with the poisoned layers in it."""
        honest = [honest_arrays(context, partition) for partition in context.attackers]
        own = honest[context.rank]
        critical = critical_layers(
            trained, own, context.weights, _Success(context, self.num_images), self.enough
        )
        poisoned = {name for layer in critical for name in layer}
        sent = dict(own)
        for name in context.weights:
            received = context.received[name]
            mean = torch.stack([arrays[name] for arrays in honest]).mean(0)
            if name in poisoned:
                rest = max(0.0, 1 - self.factor) * (mean - received)
                sent[name] = received + self.factor * (trained[name] - received) + rest
            else:
                sent[name] = mean
        return sent


Layer = tuple[str, ...]
"""Names of the arrays of one module."""


def layers_of(weights: Collection[str], order: Collection[str]) -> list[Layer]:
    """Return the weights by the module that they belong to, in the model's order."""
    layers: dict[str, list[str]] = {}
    for name in order:
        if name in weights:
            layers.setdefault(name.rpartition(".")[0], []).append(name)
    return [tuple(names) for names in layers.values()]


def critical_layers(
    poisoned: Arrays,
    honest: Arrays,
    weights: Collection[str],
    success: "_Success",
    enough: float,
) -> list[Layer]:
    """Return the layers that make the honest model succeed, the weightiest first."""
    layers = layers_of(weights, list(poisoned))
    full = success(poisoned)
    without = {layer: success({**poisoned, **_only(honest, layer)}) for layer in layers}
    ranked = sorted(layers, key=lambda layer: without[layer])
    chosen: list[Layer] = []
    mixed = dict(honest)
    for layer in ranked:
        chosen.append(layer)
        mixed |= _only(poisoned, layer)
        if success(mixed) >= enough * full:
            break
    return chosen


class _Success:
    """Share of an attacker's own triggered images that a model gives the wanted class."""

    def __init__(self, context: AttackContext, num_images: int) -> None:
        self._context = context
        images, labels = context.data_of(context.partition)
        some = draw_indices(
            torch.ones_like(labels, dtype=torch.bool), num_images, context.generator(TRIED)
        )
        pictures = images[some].float() / 255
        self._tests: list[tuple[Tensor, Tensor]] = []
        for backdoor in context.backdoors:
            stamped, wanted = backdoor.apply(pictures, labels[some], context.num_classes)
            moved = wanted != labels[some]
            self._tests.append((stamped[moved], wanted[moved]))

    def __call__(self, arrays: Arrays) -> float:
        model = self._context.received_model()
        model.load_state_dict(dict(arrays))
        deployed = DeployedModel(model, self._context.spec.pixels).eval()
        hits = [
            predict(deployed, (some.to(self._context.device) for some in images.split(BATCH_SIZE)))
            == wanted
            for images, wanted in self._tests
            if len(wanted)
        ]
        return float(torch.cat(hits).float().mean()) if hits else 0.0


def _only(arrays: Arrays, names: Collection[str]) -> Mapping[str, Tensor]:
    return {name: arrays[name] for name in names}
