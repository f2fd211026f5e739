"""The server strategy: wraps any Flower strategy, screens the replies, repairs the aggregate."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor, nn

from fl_defense.flower.aggregation import Aggregation
from fl_defense.flower.arrays import model_arrays
from fl_defense.flower.batchnorm_policy import Buffers
from fl_defense.flower.broadcast import Broadcast, Broadcasting
from fl_defense.flower.checkpoint import CheckpointFile
from fl_defense.flower.inner_strategies import (
    check_strategy,
    go_on_from,
    weight_key,
)
from fl_defense.flower.intake import Intake
from fl_defense.flower.partial import Part
from fl_defense.flower.replies import CheckedReplies, ReplyCheck
from fl_defense.flower.resumable import ResumableStrategy
from fl_defense.flower.screening import ReplyScreens
from fl_defense.inspections import Inspection, TriggerSearch
from fl_defense.log import logger
from fl_defense.model.batchnorm import non_negative_buffers
from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.gate import DoNoHarmGate
from fl_defense.rounds.records import RoundOutcome, RoundRecord
from fl_defense.rounds.repairer import OnFailure, Repairer, RepairState, check_defense
from fl_defense.rounds.schedule import Schedule
from fl_defense.rounds.verdict import fitting
from fl_defense.sanitizers.apply import check_sanitizer
from fl_defense.sanitizers.base import Sanitizer
from fl_defense.screens.apply import Screened, check_screens
from fl_defense.screens.base import Screen
from fl_defense.validation import require_instance, require_word

Observer = Callable[[RoundOutcome], None]
VERIFY = TriggerSearch()
"""How repairs are verified if nothing is said of it."""


class SanitizingStrategy(ResumableStrategy):
    """Keeps a federation's model clean without data, whatever strategy aggregates.

    A round reads: check replies, screen them, unify BatchNorm buffers, let the inner strategy
    aggregate, restore dtypes, sanitize, accept or refuse the repair, show the observer, send on.

    The server optimisers' momenta (FedAvgM, FedAdam, FedYogi) are left alone: they still carry some
    of the malicious direction into later rounds.

    Args:
        strategy: any message-API strategy, also a user's own or another wrapper. Its `start` is not
            called; this wrapper's is; docs/deployment.md says where one of your own belongs.
        sanitizer: the defense.
        spec: structure of the global model, whole even where a part of it is federated.
        base: the server's own copy of what `initial_arrays` leave out (a backbone under a head or
            adapters, say), a state dict; None: what `spec.build` makes, if that is always the same.
        screens: filters of the replies, in order, such as `Attribution()`, which leaves out clients
            that teach a backdoor. They need single updates: under secure aggregation there are
            none. What they leave out reaches no strategy.
        schedule: which rounds are repaired. None: every round; where a screen asks for repairs, as
            `Attribution` does, those for which it asks, from round 2 on, and the last.
        inspection: how a model is inspected where the schedule asks for it; `TriggerSearch` by
            default.
        verify: how each repair is verified, by a search before and one after it: `RepairVerdict`.
            Takes twice the time of the inspection. None: nothing is verified.
        min_agreement: do-no-harm gate, in [0, 1]: the least share of surrogate images, balanced
            over the classes the aggregate sees in them, that the repaired model must put into the
            same class as the aggregate; below it the aggregate is kept and the record says so.
            None: 0.5, and 0.8 for a network without BatchNorm statistics.
        on_failure: what is released when the sanitizer fails: "keep" the aggregate, the "previous"
            released model, or "raise". When the inner strategy fails, or makes a model that is not
            finite, the model stays as it was; "raise" raises the strategy's error.
        broadcast: "repaired": clients train on the repaired model. "aggregate": they train on the
            aggregate, and only the released final model is the repaired one. "auto": repaired with
            screens, else the aggregate: attackers who stay would undo each repair, and learn from
            it.
        evaluate_released: whether `evaluate_fn` and clients evaluate the released model where they
            would evaluate the one that is sent; nobody hands out data. It matters with broadcast
            "aggregate". Clients see the repaired model then, attackers too.
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
            does not fit `spec`, or such a model cannot be repaired or inspected; if `base` does not
            fit it.

    Example:
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> from flwr.serverapp.strategy import FedAvg
        >>> from fl_defense import DHBE
        >>> strategy = SanitizingStrategy(FedAvg(), DHBE(patch_size=3), spec, device="cpu")
        >>> strategy.released is None  # until strategy.start(grid, arrays) has run a round
        True
    """

    def __init__(
        self,
        strategy: Strategy,
        sanitizer: Sanitizer,
        spec: ModelSpec,
        *,
        base: Mapping[str, Tensor] | None = None,
        screens: Sequence[Screen] = (),
        schedule: Schedule | None = None,
        inspection: Inspection | None = None,
        verify: Inspection | None = VERIFY,
        min_agreement: float | None = None,
        on_failure: OnFailure = "keep",
        broadcast: Broadcast = "auto",
        evaluate_released: bool = False,
        reference_age: int | None = None,
        buffers: Buffers = "auto",
        reply_check: ReplyCheck | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        observe: Observer | None = None,
        checkpoint_file: CheckpointFile | None = None,
    ) -> None:
        check_strategy(strategy)
        require_word("on_failure", OnFailure, on_failure)
        require_word("buffers", Buffers, buffers)
        require_instance("schedule", Schedule, schedule)
        require_instance("reply_check", ReplyCheck, reply_check)
        require_instance("checkpoint_file", CheckpointFile, checkpoint_file)
        if schedule is None:
            asks = any(getattr(screen, "asks_for_repair", False) for screen in screens)
            schedule = Schedule(first_round=2, on_suspicion="screens") if asks else Schedule()
        inspection = inspection or TriggerSearch()
        asked = inspection if schedule.on_suspicion is not None else None
        model = check_defense(sanitizer, spec, asked)
        super().__init__(strategy, Part(model, spec, base), checkpoint_file)
        self.sanitizer, self.spec, self.screens = sanitizer, spec, tuple(screens)
        check_screens(self.screens, spec)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.observe = observe
        self.weighted_by_key = weight_key(strategy)
        gate = DoNoHarmGate(spec, model, min_agreement, seed=seed, device=self.device)
        self._broadcasting = Broadcasting(
            broadcast,
            screens=len(self.screens) > 0,
            reference_age=reference_age,
            template=model,
            device=self.device,
            evaluates_released=evaluate_released,
        )
        self._intake = Intake(
            check=reply_check or ReplyCheck(),
            strategy=strategy,
            weighted_by_key=self.weighted_by_key,
            non_negative=non_negative_buffers(model),
        )
        self._reply_screens = ReplyScreens(
            screens=self.screens,
            spec=spec,
            part=self.part,
            weighted_by_key=self.weighted_by_key,
            seed=seed,
            device=self.device,
            began_trained=schedule.initial,
        )
        self._aggregation = Aggregation(
            strategy,
            model,
            spec.pixels,
            buffers=buffers,
            weighted_by_key=self.weighted_by_key,
            gate=gate,
            on_failure=on_failure,
            device=self.device,
        )
        repairs_weights = getattr(sanitizer, "changes_models", True)
        self._repairer = Repairer(
            sanitizer=sanitizer,
            spec=spec,
            schedule=schedule,
            inspection=inspection,
            verify=fitting(verify, model, spec) if repairs_weights else None,
            gate=gate,
            on_failure=on_failure,
            seed=seed,
            device=self.device,
        )
        self._sent_at = 0.0

    # --- Flower's five methods -------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy configure the round, from the arrays that clients are sent."""
        if server_round <= self._num_finished:
            return []
        if not self.part.has_begun:  # a loop without `start`
            self._take_part(arrays)
        go_on_from(self.strategy, arrays)
        self._carried.arrays = arrays
        configured = self.strategy.configure_train(server_round, arrays, config, grid)
        messages = self._intake.ask("train", configured)
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
        checked = self._intake.trained(server_round, replies, carried.arrays, carried.layouts)
        if checked.layout is not None:
            carried.layouts["train"] = checked.layout
        record = RoundRecord(
            round=server_round,
            num_replies=len(checked.valid),
            num_rejected=len(checked.rejected),
            num_failures=len(checked.failed),
            train_seconds=train_seconds,
        )
        screened = self._reply_screens.judge(
            server_round, carried.arrays, checked.valid, carried.screens
        )
        if screened is not None:
            carried.screens = screened.states
            nodes = [reply.metadata.src_node_id for reply in checked.valid]
            record = record.with_screens(screened, nodes)
        made = self._aggregation.aggregate(server_round, checked.valid, carried.arrays, screened)
        if made.refused is not None:
            details = {**record.details, "aggregate_refused": made.refused}
            record = replace(record, details=details)
        if made.arrays is None or made.model is None:
            return self._keep(record, checked, screened), made.metrics
        outcome = self._repairer.repair(
            server_round,
            made.model,
            carried.repair,
            num_rounds=self.num_rounds,
            screens_suspect=screened is not None and screened.is_suspicious,
            reference=self._broadcasting.reference(server_round, carried),
            previous=self._broadcasting.previous(carried),
            federated=self.part.sent,
        )
        record = record.with_repair(outcome)
        sent = self._broadcasting.hand_on(carried, outcome, made.model, made.arrays)
        self._show(record, made.model, outcome.deployed, sent, checked, screened)
        self._finish(server_round)
        if made.metrics is not None:
            made.metrics.update(record.figures())
        return carried.arrays, made.metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy ask clients to evaluate the sent or the released model."""
        if server_round <= self._num_finished:
            return []
        arrays = self._broadcasting.to_evaluate(self._carried, arrays)
        configured = self.strategy.configure_evaluate(server_round, arrays, config, grid)
        messages = self._intake.ask("evaluate", configured)
        if messages:
            self._broadcasting.warn_of_evaluation(self._carried)
        return messages

    def _to_evaluate(self, arrays: ArrayRecord) -> ArrayRecord:
        self._broadcasting.warn_of_evaluation(self._carried)
        return self._broadcasting.to_evaluate(self._carried, arrays)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Check the replies and let the inner strategy aggregate those that are left."""
        if server_round <= self._num_finished:
            return None
        checked = self._intake.evaluated(server_round, list(replies), self._carried.layouts)
        if checked.layout is not None:
            self._carried.layouts["evaluate"] = checked.layout
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
        metrics["defense-failures"] = len(checked.failed)
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

    def _check_part(self) -> None:
        if self.part.sent is None:
            return
        try:
            check_sanitizer(self.sanitizer, self.part.template, self.spec)
        except ValueError as error:
            raise ValueError(
                f"initial_arrays: {type(self.sanitizer).__name__} cannot repair a model of which "
                f"{len(self.part.sent)} arrays are federated, {self.part.sent[0]!r} first: {error}"
            ) from error

    def _begin(self, initial_arrays: ArrayRecord) -> None:
        """Repair the model that the run begins with, if the schedule says so, and show it."""
        record = RoundRecord(round=0)
        initial = self._broadcasting.load(initial_arrays)
        outcome = self._repairer.repair(
            0,
            initial,
            RepairState(),
            num_rounds=self.num_rounds,
            previous=lambda: None,
            federated=self.part.sent,
        )
        record = record.with_repair(outcome)
        self._carried.repair = outcome.state
        if outcome.accepted:
            self._carried.arrays = model_arrays(outcome.model, initial_arrays)
        self._show(record, initial, outcome.deployed, outcome.model)

    # --- The steps of a round --------------------------------------------------------------------

    def _keep(
        self, record: RoundRecord, checked: CheckedReplies, screened: Screened | None
    ) -> ArrayRecord | None:
        """End a round that gave no aggregate; where screens refused it, the models are shown.

        Returns:
            What clients are sent next, if it is an earlier model.
        """
        earlier = None if screened is None else screened.send_again
        if earlier is None:
            logger.error("round %d: nothing was aggregated; the global model stays", record.round)
        else:
            self._broadcasting.go_back(self._carried, earlier)
        if screened is None:
            self._show(record, None, None, None, checked)
        else:
            sent, released = self._broadcasting.kept(self._carried)
            deployed = DeployedModel(released, self.spec.pixels)
            self._show(record, sent, deployed, sent, checked, screened)
        self._finish(record.round)
        return None if earlier is None else self._carried.arrays

    def _show(
        self,
        record: RoundRecord,
        suspect: nn.Module | None,
        released: DeployedModel | None,
        sent: nn.Module | None,
        checked: CheckedReplies | None = None,
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
                failures=checked.failed if checked else [],
                limited=checked.limited if checked else [],
                screens=() if screened is None else screened.reports,
            )
        )
