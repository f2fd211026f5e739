"""Who brings BatchNorm's counters and statistics to one value.

They are no weights: as part of a reply they would count in Krum's distance, and a server optimiser
would treat them as a gradient and can drive a variance below zero.
"""

from collections.abc import Collection, Iterable
from typing import Literal

import numpy as np
from flwr.app import Array, Message
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from torch import nn

from fl_defense.flower.inner_strategies import SERVER_OPTIMIZERS, wrapped_strategies
from fl_defense.flower.replies import arrays_of, weight_of

Buffers = Literal["auto", "mean", "inner"]


def buffers_to_unify(model: nn.Module, strategy: Strategy, policy: Buffers) -> list[str]:
    """Return the buffers that are unified before `strategy` aggregates; integer ones always.

    Args:
        model: any model of the architecture.
        strategy: the inner strategy, possibly a wrapper itself.
        policy: "mean": all buffers; "inner": only those of integers, the strategy does the rest;
            "auto": "mean" for server optimisers, else "inner".
    """
    optimizes = any(isinstance(inner, SERVER_OPTIMIZERS) for inner in wrapped_strategies(strategy))
    take_all = policy == "mean" or (policy == "auto" and optimizes)
    parameters = {name for name, _ in model.named_parameters()}
    return [
        name
        for name, value in model.state_dict().items()
        if name not in parameters and (take_all or not value.is_floating_point())
    ]


def unify_buffers(
    replies: Iterable[Message], names: Collection[str], weighted_by_key: str
) -> dict[str, NDArray[np.float64]]:
    """Overwrite the named buffers of every reply by one value, and return the values.

    Statistics take their weighted mean. Of integers and booleans (counters, masks, indices), each
    takes its median, the lower of two: a value that some client sent, and no minority of clients
    can choose it. An index that points nowhere would break the model.

    Afterwards an aggregator sees no difference in them: a client cannot win Krum's distance with a
    counter, and FedAvgM's momentum cannot drive a variance below zero. The caller puts the values
    into the aggregate.

    Args:
        replies: checked replies; their records are edited. Without any there are no values.
        names: arrays to unify.
        weighted_by_key: metric that weighs a reply.
    """
    replies = list(replies)
    if not replies:
        return {}
    weights = [weight_of(reply, weighted_by_key) for reply in replies]
    unified: dict[str, NDArray[np.float64]] = {}
    for name in names:
        values = np.stack([arrays_of(reply)[name].numpy() for reply in replies])
        if values.dtype.kind == "f":
            one = np.average(values.astype(np.float64), axis=0, weights=weights)
        else:
            one = np.sort(values, axis=0)[(len(values) - 1) // 2].astype(np.float64)
        unified[name] = np.asarray(one)
        # float32, not the counter's int64: QFedAvg subtracts in place and cannot cast back.
        shared = Array(unified[name].astype(np.float32))
        for reply in replies:
            arrays_of(reply)[name] = shared
    return unified
