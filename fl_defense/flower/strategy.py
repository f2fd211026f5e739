"""The server strategy: wraps any Flower strategy, screens the replies, repairs the aggregate."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvgM, Result, Strategy
from torch import nn

from fl_defense.flower.arrays import check_arrays, load_model, model_arrays, restore_arrays
from fl_defense.flower.batchnorm_policy import Buffers, buffers_to_unify, unify_buffers
from fl_defense.flower.checkpoint import Carried, Checkpoint, CheckpointError, CheckpointFile
from fl_defense.flower.inner_strategies import (
    attributes_of,
    restore,
    weighing_losses,
    wrapped_strategies,
)
from fl_defense.flower.replies import CheckedReplies, ReplyCheck
from fl_defense.flower.screening import screened_replies, shown_to_screens
from fl_defense.inspections import Inspection, TriggerSearch
from fl_defense.log import logger
from fl_defense.model.batchnorm import non_negative_buffers
from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.gate import DoNoHarmGate
from fl_defense.rounds.records import Rejection, RoundOutcome, RoundRecord
from fl_defense.rounds.repairer import OnFailure, Repairer, RepairState, check_defense
from fl_defense.rounds.schedule import Schedule
from fl_defense.rounds.verdict import fitting
from fl_defense.sanitizers.base import Sanitizer
from fl_defense.screens.apply import Screened, apply_screens, check_screens
from fl_defense.screens.base import Screen
from fl_defense.validation import one_line, require, require_word

Broadcast = Literal["auto", "repaired", "aggregate"]
Observer = Callable[[RoundOutcome], None]
VERIFY = TriggerSearch()
"""How repairs are verified if nothing is said of it."""


class SanitizingStrategy(Strategy):
    """Keeps a federation's model clean without data, whatever strategy aggregates.

    A round reads: check replies, screen them, unify BatchNorm buffers, let the inner strategy
    aggregate, restore dtypes, sanitize, accept or refuse the repair, show the observer, send on.

    The server optimisers' momenta (FedAvgM, FedAdam, FedYogi) are left alone: they still carry some
    of the malicious direction into later rounds.

    Args:
        strategy: any message-API strategy, also a user's own or another wrapper. Its `start` is not
            called; this wrapper's is; docs/deployment.md says where one of your own belongs.
        sanitizer: the defense.
        spec: structure of the global model.
        screens: filters of the replies, in order, such as `Attribution()`, which leaves out clients
            that teach a backdoor. They need single updates: under secure aggregation there are
            none. What they leave out reaches no strategy.
        schedule: which rounds are repaired; every round by default.
        inspection: how a model is inspected where the schedule asks for it; `TriggerSearch` by
            default.
        verify: how each repair is verified, by a search before and one after it: `RepairVerdict`.
            Takes twice the time of the inspection. None: nothing is verified.
        min_agreement: do-no-harm gate, in [0, 1]: the least share of surrogate images, balanced
            over the classes the aggregate sees in them, that the repaired model must put into the
            same class as the aggregate; below it the aggregate is kept and the record says so.
        on_failure: what is released when the sanitizer fails: "keep" the aggregate, the "previous"
            released model, or "raise". When the inner strategy fails, or makes a model that is not
            finite, the model stays as it was; "raise" raises the strategy's error.
        broadcast: "repaired": clients train on the repaired model. "aggregate": they train on the
            aggregate, and only the released final model is the repaired one. "auto": repaired with
            screens, else the aggregate: attackers who stay would undo each repair, and learn from
            it.
        reference_age: repair against the model that clients were sent so many rounds ago, 1 for the
            one that they just trained: of what the aggregate does, only what it does beyond that
            model is unlearned, by defenses that use a reference. An older one sees slow poisoning.
            None: without a reference. It must not be backdoored itself, so clients must be sent
            repaired models; in the first round there is none.
        buffers: who averages BatchNorm statistics: "mean" (this wrapper, weighted), "inner" (the
            inner strategy), or "auto": mean for server optimisers, else inner. Integer buffers are
            always unified here.
        reply_check: what a reply must satisfy.
        seed: seeds the sanitizer, together with the round.
        device: where to repair; None picks a GPU if there is one.
        observe: called after every round, and with round 0 for the initial model.
        checkpoint_file: replaced after every round, once `observe` has returned; see `resume`.

    Raises:
        ValueError: if `strategy` is not of Flower's message API; if `min_agreement` is outside
            [0, 1]; if `on_failure`, `broadcast` or `buffers` is none of its words; if the model
            does not fit `spec`, or such a model cannot be repaired or inspected.
    """

    def __init__(
        self,
        strategy: Strategy,
        sanitizer: Sanitizer,
        spec: ModelSpec,
        *,
        screens: Sequence[Screen] = (),
        schedule: Schedule | None = None,
        inspection: Inspection | None = None,
        verify: Inspection | None = VERIFY,
        min_agreement: float = 0.5,
        on_failure: OnFailure = "keep",
        broadcast: Broadcast = "auto",
        reference_age: int | None = None,
        buffers: Buffers = "auto",
        reply_check: ReplyCheck | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        observe: Observer | None = None,
        checkpoint_file: CheckpointFile | None = None,
    ) -> None:
        if not isinstance(strategy, Strategy):
            raise ValueError(
                f"strategy must be one of flwr.serverapp.strategy, got {type(strategy)}; "
                "those of flwr.server.strategy belong to Flower's older API"
            )
        require_word("on_failure", OnFailure, on_failure)
        require_word("broadcast", Broadcast, broadcast)
        require_word("buffers", Buffers, buffers)
        schedule, inspection = schedule or Schedule(), inspection or TriggerSearch()
        asked = inspection if schedule.on_suspicion is not None else None
        model = check_defense(sanitizer, spec, asked)
        self.strategy = strategy
        self.sanitizer = sanitizer
        self.spec = spec
        self.screens = tuple(screens)
        check_screens(self.screens, spec)
        self.broadcast: Broadcast = broadcast
        if broadcast == "auto":
            self.broadcast = "repaired" if self.screens else "aggregate"
        age = reference_age
        require(age is None or age >= 1, "reference_age", "at least 1 or None", age)
        if age is not None and self.broadcast != "repaired":
            raise ValueError(
                "reference_age: a reference must be clean, but clients are sent the aggregate; "
                'give broadcast="repaired", or leave reference_age out'
            )
        self.reference_age = age
        self.seed = seed
        self.reply_check = reply_check or ReplyCheck()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.observe = observe
        self.checkpoint_file = checkpoint_file

        for inner in wrapped_strategies(strategy):
            if type(inner).start is not Strategy.start:
                name = type(inner).__name__
                logger.warning(
                    "%s.start is not called; move it into a subclass of SanitizingStrategy", name
                )
        self.num_rounds = 0
        keys = (getattr(inner, "weighted_by_key", None) for inner in wrapped_strategies(strategy))
        self._weighted_by_key: str = next((key for key in keys if key), "num-examples")
        self._template = model
        self._unified_buffers = buffers_to_unify(model, strategy, buffers)
        self._repairer = Repairer(
            sanitizer=sanitizer,
            spec=spec,
            schedule=schedule,
            inspection=inspection,
            verify=fitting(verify, model, spec),
            gate=DoNoHarmGate(spec, min_agreement, seed=seed, device=self.device),
            on_failure=on_failure,
            seed=seed,
            device=self.device,
        )
        self._non_negative = non_negative_buffers(model)
        self._asked: list[Metadata] = []
        self._asked_to_evaluate: list[Metadata] = []
        self._carried = Carried()
        self._num_finished = 0
        self._sent_at = 0.0

    # --- Flower's five methods -------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy configure the round, from the arrays that clients are sent."""
        if server_round <= self._num_finished:
            return []
        for inner in wrapped_strategies(self.strategy):
            # FedAvgM remembers its own aggregate, which is the model from before the repair.
            if isinstance(inner, FedAvgM):
                inner.current_arrays = arrays
        self._carried.arrays = arrays
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        self._asked = [message.metadata for message in messages]
        self._sent_at = time.perf_counter()
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the replies, aggregate them, repair the aggregate.

        Raises:
            RuntimeError: if called before `configure_train`.
        """
        carried = self._carried
        if server_round <= self._num_finished:
            return carried.arrays, None
        if carried.arrays is None:
            raise RuntimeError("aggregate_train was called before configure_train")
        # Materialised once: several strategies empty the records that they aggregate.
        replies = list(replies)
        train_seconds = time.perf_counter() - self._sent_at
        checked = self.reply_check.sort(
            replies,
            carried.arrays,
            self._weighted_by_key,
            sent=self._asked,
            last_layout=carried.layouts.get("train"),
            non_negative=self._non_negative,
            losses=weighing_losses(self.strategy),
        )
        failures = self._take_in("train", server_round, replies, checked)
        record = RoundRecord(
            round=server_round,
            num_replies=len(checked.valid),
            num_rejected=len(checked.rejected),
            num_failures=len(failures),
            train_seconds=train_seconds,
        )
        record, screened = self._screen(record, checked.valid)
        record, aggregate, suspect, metrics = self._aggregate(record, checked.valid, screened)
        if aggregate is None or suspect is None:
            logger.error("round %d: nothing was aggregated; the global model stays", server_round)
            before, after = self._kept(screened)
            self._show(record, before, after, before, checked, failures, screened)
            self._finish(server_round)
            return None, metrics
        # What was released last: the arrays carried on may never have been repaired.
        last = carried.released if carried.released is not None else carried.arrays
        outcome = self._repairer.repair(
            server_round,
            suspect,
            carried.repair,
            num_rounds=self.num_rounds,
            screens_suspect=screened is not None and screened.is_suspicious,
            reference=self._reference(server_round),
            previous=partial(load_model, last, self._template, self.device),
        )
        record = record.with_repair(outcome)
        carried.repair = outcome.state
        others = (self.reference_age or 1) - 1
        carried.earlier = self._sent_so_far()[-others:] if others else []
        carried.released = model_arrays(outcome.model, aggregate)
        carried.arrays = carried.released if self.broadcast == "repaired" else aggregate
        sent = outcome.model if self.broadcast == "repaired" else suspect
        self._show(record, suspect, outcome.deployed, sent, checked, failures, screened)
        self._finish(server_round)
        _report(metrics, record)
        return carried.arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate to the inner strategy."""
        if server_round <= self._num_finished:
            return []
        messages = list(self.strategy.configure_evaluate(server_round, arrays, config, grid))
        self._asked_to_evaluate = [message.metadata for message in messages]
        return messages

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Check the replies and let the inner strategy aggregate those that are left."""
        if server_round <= self._num_finished:
            return None
        replies = list(replies)
        checked = self.reply_check.sort_evaluations(
            replies,
            self._weighted_by_key,
            sent=self._asked_to_evaluate,
            last_layout=self._carried.layouts.get("evaluate"),
        )
        failures = self._take_in("evaluate", server_round, replies, checked)
        try:
            metrics = self.strategy.aggregate_evaluate(server_round, checked.valid)
        except Exception:
            if self._repairer.on_failure == "raise":
                raise
            logger.exception("round %d: the evaluation could not be aggregated", server_round)
            metrics = None
        if metrics is None and not checked.rejected:
            return None
        metrics = MetricRecord() if metrics is None else metrics
        metrics["defense-rejected"] = len(checked.rejected)
        metrics["defense-failures"] = len(failures)
        return metrics

    def summary(self) -> None:
        """Log the defense and what it wraps."""
        logger.info("\t├──> Defense: %r", self.sanitizer)
        for screen in self.screens:
            logger.info("\t├──> Screen: %r", screen)
        pixels = self.spec.pixels
        logger.info("\t├──> Inputs normalised by mean %s, std %s", pixels.mean, pixels.std)
        least = self._repairer.gate.min_agreement
        logger.info("\t├──> %r, min_agreement=%g", self._repairer.schedule, least)
        logger.info("\t├──> Wrapped strategy: %s", type(self.strategy).__name__)
        self.strategy.summary()

    @property
    def released(self) -> ArrayRecord | None:
        """The model that would be released now; None before the first aggregation."""
        return self._carried.released

    def resume(self, checkpoint: Checkpoint) -> None:
        """Let `start` go on after the round that a checkpoint holds.

        Call it before `start`, on a strategy made with the same settings. `start` then lets the
        finished rounds pass by without asking a client; its result holds the figures of the others.

        Raises:
            CheckpointError: if the checkpoint was written by other strategies or for another model.
        """
        if checkpoint.carried.arrays is not None:
            try:
                check_arrays(checkpoint.carried.arrays, self.spec, "checkpoint")
            except ValueError as error:
                raise CheckpointError(str(error)) from error
        checkpoint.bring_back(wrapped_strategies(self.strategy))
        self._carried = checkpoint.carried
        self._num_finished = checkpoint.carried.round

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        **kwargs: Any,
    ) -> Result:
        """Run the federation; the arguments are Flower's, later ones are passed on.

        Args:
            grid: the clients.
            initial_arrays: the model to begin with; after `resume` it is that of the checkpoint.
            num_rounds: rounds in all, finished ones included.
            timeout: seconds to wait for the replies of a round.
            train_config: sent to clients with every round of training.
            evaluate_config: sent to clients with every evaluation.
            evaluate_fn: given the number of each round and the arrays that clients are sent, which
                with broadcast "aggregate" are not the repaired ones.
            **kwargs: what later versions of Flower take.

        Raises:
            ValueError: if `initial_arrays` are not those of the model that `spec` builds.
        """
        check_arrays(initial_arrays, self.spec, "initial_arrays")
        self.num_rounds = num_rounds
        finished = self._num_finished
        if finished == 0:
            self._carried = Carried()
            self._begin(initial_arrays)

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            if evaluate_fn is None or 0 < finished >= server_round:
                return None
            return evaluate_fn(server_round, arrays)

        result = super().start(
            grid,
            self._carried.arrays or initial_arrays,
            num_rounds,
            timeout,
            train_config,
            evaluate_config,
            evaluate if evaluate_fn else None,
            **kwargs,
        )
        if self.released is None:
            logger.error("no round gave a model: the result holds the one that was sent out")
            result.arrays = self._carried.arrays or initial_arrays
        else:
            result.arrays = self.released
        return result

    def _begin(self, initial_arrays: ArrayRecord) -> None:
        """Repair the model that the run begins with, if the schedule says so, and show it."""
        record = RoundRecord(round=0)
        initial = load_model(initial_arrays, self._template, self.device)
        outcome = self._repairer.repair(
            0, initial, RepairState(), num_rounds=self.num_rounds, previous=lambda: None
        )
        record = record.with_repair(outcome)
        self._carried.repair = outcome.state
        if outcome.accepted:
            self._carried.arrays = model_arrays(outcome.model, initial_arrays)
        self._show(record, initial, outcome.deployed, outcome.model)

    # --- The steps of a round --------------------------------------------------------------------

    def _screen(
        self, record: RoundRecord, replies: list[Message]
    ) -> tuple[RoundRecord, Screened | None]:
        """Let the screens judge the checked replies; None without screens or replies."""
        sent = self._carried.arrays
        if not self.screens or not replies or sent is None:
            return record, None
        screened = apply_screens(
            self.screens,
            shown_to_screens(record.round, sent, replies, self._weighted_by_key),
            self.spec,
            seed=self.seed,
            device=self.device,
            states=self._carried.screens,
        )
        self._carried.screens = screened.states
        nodes = [reply.metadata.src_node_id for reply in replies]
        for node, said in zip(nodes, screened.verdicts, strict=True):
            if said.weight == 0:
                logger.warning("round %d: node %d is left out: %s", record.round, node, said.reason)
        if screened.keep_sent is not None:
            logger.warning(
                "round %d: the model sent out stays: %s", record.round, screened.keep_sent
            )
        return record.with_screens(screened, nodes), screened

    def _aggregate(
        self, record: RoundRecord, replies: list[Message], screened: Screened | None
    ) -> tuple[RoundRecord, ArrayRecord | None, nn.Module | None, MetricRecord | None]:
        """Return the record, the aggregate as arrays and model, and the metrics of training.

        After an aggregate that cannot be used all strategies are as they were before: a NaN in a
        momentum would stay for good.
        """
        kept = attributes_of(self.strategy)
        try:
            arrays, metrics = self._inner_aggregate(record.round, replies, screened)
            if arrays is None:
                return record, None, None, metrics
            suspect = load_model(arrays, self._template, self.device)
            fault = self._fault(arrays, suspect)
        except Exception as error:
            if self._repairer.on_failure == "raise":
                raise
            logger.exception("round %d: the strategy failed to aggregate", record.round)
            fault = one_line(error)
        if fault is None:
            return record, arrays, suspect, metrics
        logger.error("round %d: the aggregate is not used: %s", record.round, fault)
        restore(kept)
        details = {**record.details, "aggregate_refused": fault}
        return replace(record, details=details), None, None, None

    def _inner_aggregate(
        self, server_round: int, replies: list[Message], screened: Screened | None
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        assert self._carried.arrays is not None
        if screened is not None:
            if screened.keep_sent is not None:
                return None, None
            replies = screened_replies(replies, screened, self._weighted_by_key)
        buffers = unify_buffers(replies, self._unified_buffers, self._weighted_by_key)
        arrays, metrics = self.strategy.aggregate_train(server_round, replies)
        if arrays is None or len(arrays) == 0:
            return None, metrics
        return restore_arrays(arrays, self._carried.arrays, buffers), metrics

    def _sent_so_far(self) -> list[ArrayRecord]:
        """Return the models sent out that a reference may be, the oldest first."""
        assert self._carried.arrays is not None
        return [*self._carried.earlier, self._carried.arrays][-(self.reference_age or 1) :]

    def _reference(self, server_round: int) -> Callable[[], nn.Module] | None:
        """Return what makes the reference of a round's repair, if there is one."""
        if self.reference_age is None or server_round == 1:
            return None
        return partial(load_model, self._sent_so_far()[0], self._template, self.device)

    def _kept(self, screened: Screened | None) -> tuple[nn.Module | None, DeployedModel | None]:
        """Return the models that are sent out and released after a round that screens refused."""
        sent, released = self._carried.arrays, self._carried.released
        if screened is None or sent is None:
            return None, None
        before = load_model(sent, self._template, self.device)
        after = before if released is None else load_model(released, self._template, self.device)
        return before, DeployedModel(after, self.spec.pixels)

    def _fault(self, arrays: ArrayRecord, suspect: nn.Module) -> str | None:
        """Return why an aggregate must not be released even if no defense is there, or None."""
        for name, array in arrays.items():
            if not np.isfinite(array.numpy()).all():
                return f"{name} holds NaN or Inf"
        return self._repairer.gate.fault(DeployedModel(suspect, self.spec.pixels))

    def _take_in(
        self, kind: str, server_round: int, replies: list[Message], checked: CheckedReplies
    ) -> list[Rejection]:
        """Log what was found in replies, remember their layout, and return who failed."""
        sent = self._asked if kind == "train" else self._asked_to_evaluate
        failures = [*checked.failed, *_silent(sent, replies, checked.failed)]
        for lost in (*checked.rejected, *failures):
            logger.warning(
                "round %d, %s: node %s is lost: %s", server_round, kind, lost.node, lost.reason
            )
        for each in checked.limited:
            logger.warning("round %d, %s: node %s: %s", server_round, kind, each.node, each.reason)
        if checked.layout is not None:
            self._carried.layouts[kind] = checked.layout
        return failures

    def _finish(self, server_round: int) -> None:
        self._carried.round = server_round
        if self.checkpoint_file is not None:
            strategies = wrapped_strategies(self.strategy)
            self.checkpoint_file.write(Checkpoint.take(self._carried, strategies))

    def _show(
        self,
        record: RoundRecord,
        suspect: nn.Module | None,
        released: DeployedModel | None,
        sent: nn.Module | None,
        checked: CheckedReplies | None = None,
        failures: Sequence[Rejection] = (),
        screened: Screened | None = None,
    ) -> None:
        if self.observe is None:
            return
        self.observe(
            RoundOutcome(
                record=record,
                aggregate=None if suspect is None else DeployedModel(suspect, self.spec.pixels),
                released=released,
                # Weights alone travel: a purifier stays with the server.
                sent=None if sent is None else DeployedModel(sent, self.spec.pixels),
                rejections=checked.rejected if checked else [],
                failures=list(failures),
                limited=checked.limited if checked else [],
                screens=() if screened is None else screened.reports,
            )
        )


def _silent(
    sent: Iterable[Metadata], replies: Iterable[Message], failed: Iterable[Rejection]
) -> list[Rejection]:
    """Return the nodes that were asked and did not answer in time."""
    heard = {reply.metadata.src_node_id for reply in replies} | {lost.node for lost in failed}
    return [
        Rejection(node=message.dst_node_id, reason="no answer in time")
        for message in sent
        if message.dst_node_id not in heard
    ]


def _report(metrics: MetricRecord | None, record: RoundRecord) -> None:
    """Add the defense's figures to Flower's own training metrics, which it logs every round."""
    if metrics is None:
        return
    metrics["defense-rejected"] = record.num_rejected
    metrics["defense-left-out"] = record.num_left_out
    metrics["defense-sanitized"] = int(record.sanitized)
    metrics["defense-accepted"] = int(record.accepted)
    metrics["defense-seconds"] = record.sanitize_seconds
    if record.verdict is not None:
        metrics["defense-not-repaired"] = int(record.verdict == "not repaired")
    if record.agreement is not None:
        metrics["defense-agreement"] = record.agreement
