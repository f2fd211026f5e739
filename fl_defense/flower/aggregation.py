"""From checked replies to an aggregate; one that must not be released leaves no trace."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy
from torch import nn

from fl_defense.flower.arrays import load_model, restore_arrays
from fl_defense.flower.batchnorm_policy import Buffers, buffers_to_unify, unify_buffers
from fl_defense.flower.inner_strategies import attributes_of, restore
from fl_defense.flower.screening import screened_replies
from fl_defense.log import logger
from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import Pixels
from fl_defense.rounds.gate import DoNoHarmGate
from fl_defense.rounds.repairer import OnFailure
from fl_defense.screens.apply import Screened
from fl_defense.validation import one_line


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """What an inner strategy made of a round's replies."""

    arrays: ArrayRecord | None = None
    """In the order and dtypes of what was sent; None: nothing was aggregated."""
    model: nn.Module | None = None
    """The same as a model, in eval mode; None with `arrays`."""
    metrics: MetricRecord | None = None
    """The strategy's own, of training."""
    refused: str | None = None
    """Why what was aggregated must not be used, or None."""


class Aggregation:
    """Lets the inner strategy aggregate.

    Args:
        strategy: aggregates.
        template: a model of the architecture.
        pixels: normalisation of its inputs.
        buffers: who averages BatchNorm statistics.
        weighted_by_key: metric by which replies are weighed.
        gate: says whether a model answers with numbers.
        on_failure: "raise" raises the strategy's errors.
        device: where the model goes.
    """

    def __init__(
        self,
        strategy: Strategy,
        template: nn.Module,
        pixels: Pixels,
        *,
        buffers: Buffers,
        weighted_by_key: str,
        gate: DoNoHarmGate,
        on_failure: OnFailure,
        device: torch.device,
    ) -> None:
        self.strategy, self.template, self.pixels = strategy, template, pixels
        self.unified_buffers = buffers_to_unify(template, strategy, buffers)
        """Buffers that get one value before the strategy aggregates."""
        self.weighted_by_key, self.gate = weighted_by_key, gate
        self.on_failure, self.device = on_failure, device

    def aggregate(
        self,
        server_round: int,
        replies: list[Message],
        sent: ArrayRecord,
        screened: Screened | None,
    ) -> Aggregate:
        """Return the aggregate of checked replies.

        After one that cannot be used all strategies are as they were before: a NaN in a momentum
        would stay for good.
        """
        kept = attributes_of(self.strategy)
        try:
            aggregate = self._aggregate(server_round, replies, sent, screened)
            fault = self._fault(aggregate)
        except Exception as error:
            if self.on_failure == "raise":
                raise
            logger.exception("round %d: the strategy failed to aggregate", server_round)
            fault = one_line(error)
        if fault is None:
            return aggregate
        logger.error("round %d: the aggregate is not used: %s", server_round, fault)
        restore(kept)
        return Aggregate(refused=fault)

    def _aggregate(
        self,
        server_round: int,
        replies: list[Message],
        sent: ArrayRecord,
        screened: Screened | None,
    ) -> Aggregate:
        if screened is not None:
            if screened.keep_sent is not None:
                return Aggregate()
            replies = screened_replies(replies, screened, self.weighted_by_key)
        names = [name for name in self.unified_buffers if name in sent]
        buffers = unify_buffers(replies, names, self.weighted_by_key)
        arrays, metrics = self.strategy.aggregate_train(server_round, replies)
        aggregate = Aggregate(metrics=metrics)
        if arrays is None or len(arrays) == 0:
            return aggregate
        arrays = restore_arrays(arrays, sent, buffers)
        model = load_model(arrays, self.template, self.device)
        return replace(aggregate, arrays=arrays, model=model)

    def _fault(self, aggregate: Aggregate) -> str | None:
        """Return why an aggregate must not be released even if no defense is there, or None."""
        if aggregate.arrays is None or aggregate.model is None:
            return None
        for name, array in aggregate.arrays.items():
            if not np.isfinite(array.numpy()).all():
                return f"{name} holds NaN or Inf"
        return self.gate.fault(DeployedModel(aggregate.model, self.pixels))
