"""Neurotoxin: only weights that honest clients hardly move are poisoned."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.validation import require_positive
from simulations.attack.badnets import BadNets
from simulations.attack.context import AttackContext, Steps
from simulations.attack.updates import Arrays, norm_of, scaled, update_of

BATCH_SIZE = 256
"""Images at a time while the honest gradient is measured; the sum over all is used."""


@dataclass(frozen=True, kw_only=True)
class Neurotoxin(BadNets):
    """Attackers move only weights of small honest gradient (Zhang et al., ICML 2022).

    What others do not overwrite stays: the backdoor is meant to outlast the attack. The honest
    gradient is that of the received model on the attacker's own clean images; weights are ranked
    over all layers together, and those outside the mask are sent exactly as received.
    """

    ratio: float = 0.95
    """Share of the weights, those of the smallest honest gradient, that may move; in (0, 1]."""
    largest_norm: float | None = None
    """Euclidean norm to which the update is cut before `boost`; null: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must be in (0, 1], got {self.ratio}")
        if self.largest_norm is not None:
            require_positive(self, "largest_norm")

    def train(
        self, model: nn.Module, images: Tensor, labels: Tensor, context: AttackContext
    ) -> float:
        """Train with masked gradients."""
        masks = quiet_masks(honest_gradients(context), self.ratio)
        return context.training.fit(model, images, labels, _Masked(model, masks))

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        """Cut the update to `largest_norm`, then scale it by `boost`."""
        if self.largest_norm is not None:
            norm = norm_of(update_of(trained, context.received, context.weights))
            factor = min(1.0, self.largest_norm / max(norm, 1e-12))
            trained = scaled(trained, context.received, context.weights, factor)
        return super().craft(trained, context)


def honest_gradients(context: AttackContext) -> list[Tensor]:
    """Return the received model's gradient on the client's clean images, by parameter."""
    model = context.received_model().train()
    images, labels = context.data_of(context.partition)
    batches = zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True)
    for some, classes in batches:
        inputs = context.spec.pixels.normalize(some.to(context.device).float() / 255)
        functional.cross_entropy(
            model(inputs), classes.to(context.device), reduction="sum"
        ).backward()
    return [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for parameter in model.parameters()
    ]


def quiet_masks(gradients: Sequence[Tensor], ratio: float) -> list[Tensor]:
    """Return booleans in the gradients' shapes: true for the `ratio` smallest of all together."""
    sizes = torch.cat([gradient.abs().reshape(-1) for gradient in gradients])
    quiet = torch.zeros_like(sizes, dtype=torch.bool)
    quiet[sizes.argsort(stable=True)[: round(ratio * len(sizes))]] = True
    pieces = quiet.split([gradient.numel() for gradient in gradients])
    return [piece.view(gradient.shape) for piece, gradient in zip(pieces, gradients, strict=True)]


class _Masked(Steps):
    """Lets weights outside the masks neither learn nor, by weight decay, shrink."""

    def __init__(self, model: nn.Module, masks: Sequence[Tensor]) -> None:
        self._start = [parameter.detach().clone() for parameter in model.parameters()]
        self._masks = masks

    def after_backward(self, model: nn.Module) -> None:
        for parameter, mask in zip(model.parameters(), self._masks, strict=True):
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        for parameter, mask, start in zip(
            model.parameters(), self._masks, self._start, strict=True
        ):
            parameter.copy_(torch.where(mask, parameter, start))
