"""Arithmetic on updates: what a client adds to the received weights. Buffers are left alone."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

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
