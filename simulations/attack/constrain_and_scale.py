"""Constrain-and-scale: model replacement whose training is held near the received model."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from simulations.attack.context import Steps
from simulations.attack.model_replacement import ModelReplacement


@dataclass(frozen=True, kw_only=True)
class ConstrainAndScale(ModelReplacement):
    """Model replacement whose loss also punishes looking unusual (Bagdasaryan et al., 2020).

    The loss is alpha * cross-entropy + (1 - alpha) * distance of the weights to those received.
    """

    alpha: float = 0.7
    """Weight of the cross-entropy, in (0, 1]; the distance has the rest."""
    distance: Literal["euclidean", "cosine"] = "euclidean"
    """What a server may look at: the length of the update, or the angle between the models."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1], got {self.alpha}")

    def steps(self, model: nn.Module) -> Steps:
        """Return steps with the two-part loss."""
        return _NearReceived(model, self)


class _NearReceived(Steps):
    """Adds the distance to the weights that the model had at first."""

    def __init__(self, model: nn.Module, settings: ConstrainAndScale) -> None:
        self._start = _flat(model).detach().clone()
        self._settings = settings

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        alpha, weights = self._settings.alpha, _flat(model)
        if self._settings.distance == "cosine":
            distance = 1 - functional.cosine_similarity(weights, self._start, dim=0)
        else:
            distance = torch.linalg.vector_norm(weights - self._start)
        return alpha * super().loss(model, inputs, labels) + (1 - alpha) * distance


def _flat(model: nn.Module) -> Tensor:
    """Return all weights in one row."""
    return torch.cat([parameter.reshape(-1) for parameter in model.parameters()])
