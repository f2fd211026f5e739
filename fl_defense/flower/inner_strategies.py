"""All that is known of the strategies inside the wrapper."""

from collections.abc import Iterator

from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi, QFedAvg, Strategy

SERVER_OPTIMIZERS = (FedAvgM, FedAdam, FedYogi, FedAdagrad, QFedAvg)
"""Strategies that treat an aggregate as a gradient; BatchNorm statistics are none."""


def wrapped_strategies(strategy: Strategy) -> Iterator[Strategy]:
    """Walk from a strategy through the wrappers' `strategy` attributes to the innermost one."""
    inner: object = strategy
    while isinstance(inner, Strategy):
        yield inner
        inner = getattr(inner, "strategy", None)
