"""Optimizers of torch.optim by name, with the few settings that papers give of them."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

OptimizerName = Literal["sgd", "adam", "adamw", "adamax", "nadam", "radam", "rmsprop"]

ADAMS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
}
"""Those that keep a mean of the gradients and one of their squares."""
SQUARES = 0.999
"""How slowly Adam's mean of the squares forgets; torch's default."""


def build_optimizer(
    name: OptimizerName,
    parameters: Iterable[Tensor],
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Return an optimizer of torch.

    Args:
        name: as torch.optim spells it, in small letters.
        parameters: what is trained.
        learning_rate: of every step.
        momentum: how slowly the mean of the gradients forgets, in [0, 1): SGD's and RMSprop's
            momentum, the first beta of Adam and its kin.
        weight_decay: added to the gradient; AdamW takes it off the weights instead.
        nesterov: whether SGD looks ahead.

    Example:
        >>> weights = [torch.nn.Parameter(torch.zeros(2))]
        >>> settings = {"learning_rate": 0.001, "momentum": 0.9, "weight_decay": 0}
        >>> adam = build_optimizer("adam", weights, **settings)
        >>> type(adam).__name__, adam.defaults["betas"]
        ('Adam', (0.9, 0.999))
    """
    usual: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if name == "sgd":
        return torch.optim.SGD(parameters, momentum=momentum, nesterov=nesterov, **usual)
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, momentum=momentum, **usual)
    return ADAMS[name](parameters, betas=(momentum, SQUARES), **usual)
