"""Which images resemble what a model was trained on, told by its BatchNorm statistics."""

import math

import torch
from torch import Tensor, nn

from fl_defense.model.batches import CHUNK
from fl_defense.model.batchnorm import before_each_batchnorm
from fl_defense.model.spec import ModelSpec
from fl_defense.progress import counted
from fl_defense.surrogates.base import Surrogate

VALUES_AT_ONCE = 2**25
"""Pixel values of images that are drawn together: 128 MiB."""


def draw_familiar(
    surrogate: Surrogate, model: nn.Module, spec: ModelSpec, num: int, candidates_per_image: int
) -> Tensor:
    """Draw many images and return the `num` most familiar to the model (see `most_familiar`).

    Args:
        surrogate: where images come from.
        model: in eval mode.
        spec: of the model.
        num: how many to keep.
        candidates_per_image: how many are drawn for each one kept; 1: all are kept.

    Returns:
        Inputs (num, C, H, W), normalised, on the model's device.
    """
    device = next(model.parameters()).device
    # Not all candidates at once: of large images they would fill the memory.
    most = max(CHUNK, VALUES_AT_ONCE // math.prod(spec.input_shape))
    kept = torch.empty(0, *spec.input_shape, device=device)
    distances = torch.empty(0, device=device)
    left = num * candidates_per_image
    while left > 0:
        drawn = surrogate.draw(min(left, most), spec.input_shape)
        left -= len(drawn)
        drawn = spec.pixels.normalize(drawn.to(device))
        kept = torch.cat([kept, drawn])
        if candidates_per_image > 1:
            distances = torch.cat([distances, unfamiliarity(model, drawn)])
            nearest = distances.argsort(stable=True)[:num]
            kept, distances = kept[nearest], distances[nearest]
    return kept


@torch.no_grad()
def most_familiar(model: nn.Module, inputs: Tensor, num: int) -> Tensor:
    """Return the `num` inputs of least `unfamiliarity`, the earlier one of two that are alike.

    Args:
        model: in eval mode.
        inputs: (N, C, H, W), normalised, on the model's device.
        num: how many to keep, at most N.
    """
    return inputs[unfamiliarity(model, inputs).argsort(stable=True)[:num]]


@torch.no_grad()
def unfamiliarity(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return how far each input's features are from what BatchNorm remembers of training, (N,).

    The distance of an input is the squared difference between its channel means and the running
    means, in units of the running variance, averaged over channels, summed over BatchNorm layers.
    A model without BatchNorm remembers nothing: all are at distance 0.

    Args:
        model: in eval mode.
        inputs: (N, C, H, W), normalised, on the model's device.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return torch.zeros(len(inputs), device=inputs.device)
    distances: list[Tensor] = []

    def measure(_: str, layer: nn.Module, arguments: tuple[Tensor]) -> None:
        if not isinstance(layer, nn.BatchNorm2d):
            return
        assert layer.running_mean is not None
        assert layer.running_var is not None
        difference = arguments[0].mean((2, 3)) - layer.running_mean
        distances[-1] += (difference.square() / (layer.running_var + layer.eps)).mean(1)

    with before_each_batchnorm(model, measure):
        for batch in counted("choosing familiar scenes", inputs.split(CHUNK)):
            distances.append(torch.zeros(len(batch), device=inputs.device))
            model(batch)
    return torch.cat(distances)
