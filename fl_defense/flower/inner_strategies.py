"""All that is known of the strategies inside the wrapper."""

from collections.abc import Iterator
from typing import Any

from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi, QFedAvg, Strategy

SERVER_OPTIMIZERS = (FedAvgM, FedAdam, FedYogi, FedAdagrad, QFedAvg)
"""Strategies that treat an aggregate as a gradient; BatchNorm statistics are none."""


def wrapped_strategies(strategy: Strategy) -> Iterator[Strategy]:
    """Walk from a strategy through the wrappers' `strategy` attributes to the innermost one."""
    inner: object = strategy
    while isinstance(inner, Strategy):
        yield inner
        inner = getattr(inner, "strategy", None)


def weighing_losses(strategy: Strategy) -> dict[str, float]:
    """Return the metrics by which a strategy weighs replies beside their examples, with the power.

    QFedAvg takes the training loss to the power q: a negative one makes its aggregate NaN.
    """
    return {
        inner.train_loss_key: inner.q
        for inner in wrapped_strategies(strategy)
        if isinstance(inner, QFedAvg)
    }


def attributes_of(strategy: Strategy) -> list[tuple[Strategy, dict[str, Any]]]:
    """Return what a strategy and those inside it remember, to be brought back by `restore`.

    Flower's strategies replace their momenta and do not edit them.
    """
    return [(inner, dict(vars(inner))) for inner in wrapped_strategies(strategy)]


def restore(kept: list[tuple[Strategy, dict[str, Any]]]) -> None:
    """Make strategies remember what `attributes_of` returned."""
    for inner, attributes in kept:
        vars(inner).clear()
        vars(inner).update(attributes)
