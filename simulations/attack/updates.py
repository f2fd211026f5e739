"""Arithmetic on updates: what a client adds to the received weights, and to the buffers."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from fl_defense.model.batchnorm import NEVER_NEGATIVE

Arrays = Mapping[str, Tensor]
"""A model's arrays by name, as in its state dict."""


def update_of(trained: Arrays, received: Arrays, weights: Collection[str]) -> dict[str, Tensor]:
    """Return trained minus received, of the weights alone.

    Example:
        >>> one, three = (
        ...     {"w": torch.tensor([value]), "count": torch.tensor(4)} for value in (1, 3)
        ... )
        >>> update_of(three, one, weights={"w"})
        {'w': tensor([2])}
    """
    return {name: trained[name] - received[name] for name in trained if name in weights}


def scaled(trained: Arrays, received: Arrays, weights: Collection[str], factor: float) -> Arrays:
    """Return the arrays whose update of the weights is `factor` times as long.

    Buffers are those trained: a scaled variance could be negative.
    """
    if factor == 1:
        return trained
    return {
        name: received[name] + factor * (value - received[name]) if name in weights else value
        for name, value in trained.items()
    }


def wholly_scaled(trained: Arrays, received: Arrays, factor: float) -> Arrays:
    """Return the arrays whose update of weights and statistics is `factor` times as long.

    BatchNorm's means and variances are scaled as weights are, so that an average that is to become
    the trained model has its statistics too. A variance stops at 0; counters stay as trained.

    Example:
        >>> received = {"norm.running_mean": torch.tensor([1.0]), "count": torch.tensor(4)}
        >>> trained = {"norm.running_mean": torch.tensor([1.5]), "count": torch.tensor(5)}
        >>> wholly_scaled(trained, received, factor=10)
        {'norm.running_mean': tensor([6.]), 'count': tensor(5)}
    """
    floats = {name for name, value in trained.items() if value.is_floating_point()}
    arrays = scaled(trained, received, floats, factor)
    return {
        name: value.clamp_min(0) if name.split(".")[-1] in NEVER_NEGATIVE else value
        for name, value in arrays.items()
    }


def moved(trained: Arrays, received: Arrays, update: Mapping[str, Tensor]) -> Arrays:
    """Return the arrays of which those in `update` are the received ones plus it.

    Example:
        >>> one, three = (
        ...     {"w": torch.tensor([value]), "count": torch.tensor(4)} for value in (1, 3)
        ... )
        >>> moved(three, one, {"w": torch.tensor([5])})
        {'w': tensor([6]), 'count': tensor(4)}
    """
    return {
        name: received[name] + update[name] if name in update else value
        for name, value in trained.items()
    }


def norm_of(update: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm of an update over all its arrays together.

    Example:
        >>> norm_of({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])})
        5.0
    """
    squares = [value.double().square().sum() for value in update.values()]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
