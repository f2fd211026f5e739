"""The server strategy: wraps any Flower strategy and repairs what it aggregates."""

import logging
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvgM, Result, Strategy
from torch import nn

from fl_defense.arrays import check_initial_arrays, load_model, model_arrays, restore_arrays
from fl_defense.buffers import Buffers, buffers_to_unify, unify_buffers, wrapped_strategies
from fl_defense.gate import DoNoHarmGate
from fl_defense.model_spec import ModelSpec, OnImages
from fl_defense.records import Rejection, RoundDraft, RoundOutcome
from fl_defense.replies import CheckedReplies, ReplyCheck
from fl_defense.sanitizers.base import (
    NoEffectWarning,
    Sanitized,
    Sanitizer,
    State,
    apply_sanitizer,
)
from fl_defense.schedule import Schedule

# A child of Flower's logger prints in Flower's format, at Flower's level.
logger = logging.getLogger("flwr").getChild("fl_defense")

OnFailure = Literal["keep", "previous", "raise"]
Broadcast = Literal["repaired", "aggregate"]
Observer = Callable[[RoundOutcome], None]


class SanitizingStrategy(Strategy):
    """Repairs each aggregated global model without data, whatever strategy aggregates.

    A round reads: check replies, unify BatchNorm buffers, let the inner strategy aggregate, restore
    dtypes, sanitize, accept or refuse the repair, show the observer, hand on.

    The server optimisers' momenta (FedAvgM, FedAdam, FedYogi) are left alone: they still carry some
    of the malicious direction into later rounds.

    Args:
        strategy: any message-API strategy, also a user's own or another wrapper. Its `start` is not
            called; this wrapper's is.
        sanitizer: the defense.
        spec: structure of the global model.
        schedule: which rounds are repaired; every round by default.
        min_agreement: do-no-harm gate, in [0, 1]: the least share of surrogate images, balanced
            over the classes the aggregate sees in them, that the repaired model must put into the
            same class as the aggregate; below it the aggregate is kept and the record says so.
        on_failure: what is handed on when the sanitizer fails: "keep" the aggregate, the "previous"
            global model, or "raise".
        broadcast: "repaired": clients train on the repaired model. "aggregate": they train on the
            aggregate, and only the released final model is the repaired one.
        buffers: who averages BatchNorm statistics: "mean" (this wrapper, weighted), "inner" (the
            inner strategy), or "auto": mean for server optimisers, else inner. Integer buffers are
            always averaged here.
        reply_check: what a reply must satisfy.
        seed: seeds the sanitizer, together with the round.
        device: where to repair; None picks a GPU if there is one.
        observe: called after every round, and with round 0 for the initial model.

    Raises:
        ValueError: if `min_agreement` is outside [0, 1].
    """

    def __init__(
        self,
        strategy: Strategy,
        sanitizer: Sanitizer,
        spec: ModelSpec,
        *,
        schedule: Schedule | None = None,
        min_agreement: float = 0.5,
        on_failure: OnFailure = "keep",
        broadcast: Broadcast = "repaired",
        buffers: Buffers = "auto",
        reply_check: ReplyCheck | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        observe: Observer | None = None,
    ) -> None:
        self.strategy = strategy
        self.sanitizer = sanitizer
        self.spec = spec
        self.schedule = schedule or Schedule()
        self.on_failure = on_failure
        self.broadcast = broadcast
        self.reply_check = reply_check or ReplyCheck()
        self.seed = seed
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.observe = observe

        self._weighted_by_key: str = getattr(strategy, "weighted_by_key", "num-examples")
        self._unified_buffers = buffers_to_unify(spec.build(), strategy, buffers)
        self._gate = DoNoHarmGate(spec, min_agreement, seed=seed, device=self.device)
        self._num_rounds = 0
        self._num_asked = 0
        self._global: ArrayRecord | None = None
        self._released: ArrayRecord | None = None
        self._state: State | None = None
        self._sent_at = 0.0

    # --- Flower's five methods -------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy configure the round, from the model that was really handed on."""
        for inner in wrapped_strategies(self.strategy):
            # FedAvgM remembers its own aggregate, which is the model from before the repair.
            if isinstance(inner, FedAvgM):
                inner.current_arrays = arrays
        self._global = arrays
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        self._num_asked = len(messages)
        self._sent_at = time.perf_counter()
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the replies, aggregate them, repair the aggregate.

        Raises:
            RuntimeError: if called before `configure_train`.
        """
        if self._global is None:
            raise RuntimeError("aggregate_train was called before configure_train")
        # Materialised once: several strategies empty the records that they aggregate.
        replies = list(replies)
        train_seconds = time.perf_counter() - self._sent_at
        checked = self.reply_check.sort(replies, self._global, self._weighted_by_key)
        for rejection in checked.rejected:
            logger.warning(
                "round %d: reply of node %d dropped: %s",
                server_round,
                rejection.node,
                rejection.reason,
            )
        record = RoundDraft(
            round=server_round,
            num_replies=len(checked.valid),
            num_rejected=len(checked.rejected),
            num_failures=checked.num_failures + max(0, self._num_asked - len(replies)),
            train_seconds=train_seconds,
        )
        aggregate, metrics = self._aggregate(server_round, checked)
        if aggregate is None:
            logger.error("round %d: nothing was aggregated; the global model stays", server_round)
            self._show(record, None, None, checked.rejected)
            return None, metrics
        suspect = load_model(aggregate, self.spec, self.device)
        chosen, deployed = self._repair(record, suspect)
        repaired = model_arrays(chosen, aggregate)
        self._released = repaired
        self._show(record, suspect, deployed, checked.rejected)
        _report(metrics, record)
        return (repaired if self.broadcast == "repaired" else aggregate), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate to the inner strategy."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Delegate to the inner strategy."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Log the defense and what it wraps."""
        logger.info("\t├──> Defense: %r", self.sanitizer)
        logger.info("\t├──> %r, min_agreement=%g", self.schedule, self._gate.min_agreement)
        logger.info("\t├──> Wrapped strategy: %s", type(self.strategy).__name__)
        self.strategy.summary()

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        *args: Any,
        **kwargs: Any,
    ) -> Result:
        """Run the federation; further arguments are Flower's and passed on.

        Raises:
            ValueError: if `initial_arrays` are not those of the model that `spec` builds.
        """
        check_initial_arrays(initial_arrays, self.spec)
        self._num_rounds = num_rounds
        initial = load_model(initial_arrays, self.spec, self.device)
        self._show(RoundDraft(round=0), initial, OnImages(initial, self.spec.pixels), [])
        result = super().start(grid, initial_arrays, num_rounds, *args, **kwargs)
        if self._released is not None:
            result.arrays = self._released
        return result

    # --- The steps of a round --------------------------------------------------------------------

    def _aggregate(
        self, server_round: int, checked: CheckedReplies
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        assert self._global is not None
        buffers = unify_buffers(checked.valid, self._unified_buffers, self._weighted_by_key)
        arrays, metrics = self.strategy.aggregate_train(server_round, checked.valid)
        if arrays is None or len(arrays) == 0:
            return None, metrics
        return restore_arrays(arrays, self._global, buffers), metrics

    def _repair(self, record: RoundDraft, suspect: nn.Module) -> tuple[nn.Module, OnImages]:
        """Return the weights to hand on and the model as deployed; note it all in `record`."""
        unrepaired = OnImages(suspect, self.spec.pixels)
        if not self.schedule.is_due(record.round, self._num_rounds):
            return suspect, unrepaired
        record.sanitized = True
        try:
            sanitized = self._sanitize(record, suspect)
        except Exception as error:
            if self.on_failure == "raise":
                raise
            logger.exception("round %d: the defense failed", record.round)
            record.details["failure"] = f"{type(error).__name__}: {error}"
            self._state = None
            if self.on_failure == "previous":
                assert self._global is not None
                previous = load_model(self._global, self.spec, self.device)
                return previous, OnImages(previous, self.spec.pixels)
            return suspect, unrepaired
        deployed = sanitized.deployed(self.spec)
        record.agreement = self._gate.agreement(unrepaired, deployed)
        reason = self._gate.refusal(record.agreement)
        record.accepted = reason is None
        if reason is not None:
            logger.warning("round %d: repair refused, %s", record.round, reason)
            record.details["refused"] = reason
            # Generators that ruined this model would start from there: begin afresh.
            self._state = None
            return suspect, unrepaired
        self._state = sanitized.state
        return sanitized.model, deployed

    def _sanitize(self, record: RoundDraft, suspect: nn.Module) -> Sanitized:
        started = time.perf_counter()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", NoEffectWarning)
                sanitized = apply_sanitizer(
                    self.sanitizer,
                    suspect,
                    self.spec,
                    seed=self.seed * 1_000_003 + record.round,
                    state=self._state,
                )
        finally:
            record.sanitize_seconds = time.perf_counter() - started
        record.details.update(sanitized.details)
        if any(issubclass(warning.category, NoEffectWarning) for warning in caught):
            logger.warning("round %d: the defense changed nothing", record.round)
            record.details["no_effect"] = True
        return sanitized

    def _show(
        self,
        record: RoundDraft,
        suspect: nn.Module | None,
        deployed: OnImages | None,
        rejections: list[Rejection],
    ) -> None:
        if self.observe is None:
            return
        before = None if suspect is None else OnImages(suspect, self.spec.pixels)
        self.observe(
            RoundOutcome(
                record=record.finish(),
                before=before,
                after=deployed,
                rejections=rejections,
            )
        )


def _report(metrics: MetricRecord | None, record: RoundDraft) -> None:
    """Add the defense's figures to Flower's own training metrics, which it logs every round."""
    if metrics is None:
        return
    metrics["defense-rejected"] = record.num_rejected
    metrics["defense-sanitized"] = int(record.sanitized)
    metrics["defense-accepted"] = int(record.accepted)
    metrics["defense-seconds"] = record.sanitize_seconds
    if record.agreement is not None:
        metrics["defense-agreement"] = record.agreement
