"""All that is known of the strategies inside the wrapper."""

from collections.abc import Iterator
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi, QFedAvg, Strategy

from fl_defense.log import logger

SERVER_OPTIMIZERS = (FedAvgM, FedAdam, FedYogi, FedAdagrad, QFedAvg)
"""Strategies that treat an aggregate as a gradient; BatchNorm statistics are none."""


def wrapped_strategies(strategy: Strategy) -> Iterator[Strategy]:
    """Walk from a strategy through the wrappers' `strategy` attributes to the innermost one."""
    inner: object = strategy
    while isinstance(inner, Strategy):
        yield inner
        inner = getattr(inner, "strategy", None)


def check_strategy(strategy: Strategy) -> None:
    """Refuse what is no strategy of the message API, and warn of a `start` that is not called.

    Raises:
        ValueError: if `strategy` is not of Flower's message API.
    """
    if not isinstance(strategy, Strategy):
        raise ValueError(
            f"strategy must be one of flwr.serverapp.strategy, got {type(strategy)}; "
            "those of flwr.server.strategy belong to Flower's older API"
        )
    for inner in wrapped_strategies(strategy):
        if type(inner).start is not Strategy.start:
            name = type(inner).__name__
            logger.warning(
                "%s.start is not called; move it into a subclass of SanitizingStrategy", name
            )


def weight_key(strategy: Strategy) -> str:
    """Return the metric by which a strategy weighs replies."""
    keys = (getattr(inner, "weighted_by_key", None) for inner in wrapped_strategies(strategy))
    return next((key for key in keys if key), "num-examples")


def go_on_from(strategy: Strategy, arrays: ArrayRecord) -> None:
    """Let strategies take the arrays that clients are sent for the global model.

    FedAvgM remembers its own aggregate, which is the model from before the repair.
    """
    for inner in wrapped_strategies(strategy):
        if isinstance(inner, FedAvgM):
            inner.current_arrays = arrays


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
