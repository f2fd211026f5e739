"""What happens to an aggregate: is a repair due, is it suspected, sanitize, accept or refuse."""

import logging
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fl_defense.flower.arrays import load_model
from fl_defense.flower.checkpoint import Carried
from fl_defense.inspections import Inspection
from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import ModelSpec, try_model
from fl_defense.rounds.gate import DoNoHarmGate
from fl_defense.rounds.records import RoundDraft
from fl_defense.rounds.schedule import Schedule
from fl_defense.rounds.suspicion import Monitor, SuspicionRule
from fl_defense.sanitizers.apply import apply_sanitizer, check_sanitizer, idle_defenses
from fl_defense.sanitizers.base import Sanitized, Sanitizer
from fl_defense.state import State

logger = logging.getLogger("flwr").getChild("fl_defense")


OnFailure = Literal["keep", "previous", "raise"]


def check_defense(sanitizer: Sanitizer, spec: ModelSpec, inspection: Inspection | None) -> None:
    """Try, before any round, whether a model of `spec` can be built, repaired and inspected.

    Raises:
        ValueError: if it cannot; the message says why.
    """
    if isinstance(sanitizer, type) or not isinstance(sanitizer, Sanitizer):
        raise ValueError(
            f"sanitizer must be a defense such as DHBE.per_round(), got {sanitizer!r}; "
            "put several into Pipeline(steps=(...))"
        )
    try:
        model = try_model(spec)
    except ValueError as error:
        raise ValueError(f"spec: the model {error}") from error
    check_sanitizer(sanitizer, model, spec)
    if inspection is not None:
        inspection.check(model, spec)


@dataclass(frozen=True, kw_only=True)
class Repairer:
    """Repairs aggregates; the fields are `SanitizingStrategy`'s arguments of the same names."""

    sanitizer: Sanitizer
    spec: ModelSpec
    schedule: Schedule
    inspection: Inspection
    gate: DoNoHarmGate
    on_failure: OnFailure
    seed: int
    device: torch.device

    @property
    def _watch(self) -> Monitor | None:
        asked = self.schedule.on_suspicion
        if asked is None:
            return None
        alarm = SuspicionRule() if asked == "history" else SuspicionRule(bound=asked)
        return Monitor(spec=self.spec, alarm=alarm, inspection=self.inspection, seed=self.seed)

    def repair(
        self, record: RoundDraft, suspect: nn.Module, carried: Carried, num_rounds: int
    ) -> tuple[nn.Module, DeployedModel]:
        """Return the weights to release and the model as deployed; note it all in `record`.

        Args:
            record: of the round; figures and reasons are added.
            suspect: the aggregate, in eval mode.
            carried: the global model of the round before, and what the defense and the watch carry
                from round to round, which is replaced.
            num_rounds: rounds in all.
        """
        unrepaired = DeployedModel(suspect, self.spec.pixels)
        alarmed = self._inspect(record, suspect, carried)
        if not self.schedule.is_due(record.round, num_rounds, alarmed=alarmed):
            return suspect, unrepaired
        record.sanitized = True
        try:
            sanitized = self._sanitize(record, suspect, carried.defense)
            deployed = sanitized.deployed(self.spec)
            record.agreement = self.gate.agreement(unrepaired, deployed)
        except Exception as error:
            if self.on_failure == "raise":
                raise
            logger.exception("round %d: the defense failed", record.round)
            record.details["failure"] = f"{type(error).__name__}: {error}"
            carried.defense = None
            # What was released last: the arrays carried on may never have been repaired.
            last = carried.released if carried.released is not None else carried.arrays
            if self.on_failure == "previous" and last is not None:
                previous = load_model(last, self.spec, self.device)
                return previous, DeployedModel(previous, self.spec.pixels)
            return suspect, unrepaired
        reason = self.gate.refusal(record.agreement)
        record.accepted = reason is None
        if reason is not None:
            logger.warning("round %d: repair refused, %s", record.round, reason)
            record.details["refused"] = reason
            # Generators that ruined this model would start from there: begin afresh.
            carried.defense = None
            return suspect, unrepaired
        carried.defense = sanitized.state
        return sanitized.model, deployed

    def _inspect(self, record: RoundDraft, suspect: nn.Module, carried: Carried) -> bool:
        """Inspect the aggregate if the schedule asks for it; return whether that is an alarm."""
        watch = self._watch
        if watch is None or not self.schedule.asks(record.round):
            return False
        started = time.perf_counter()
        try:
            found, alarmed, carried.watch = watch.look(suspect, carried.watch)
        except Exception as error:
            if self.on_failure == "raise":
                raise
            logger.exception("round %d: the inspection failed, repair to be safe", record.round)
            record.details["inspection_failure"] = f"{type(error).__name__}: {error}"
            carried.watch = None  # what could not be read would not be readable in the next round
            return True
        record.details["inspect_seconds"] = time.perf_counter() - started
        record.details["anomaly"] = found.anomaly
        record.details["suspected_class"] = found.suspected_class
        record.details["alarm"] = alarmed
        if alarmed:
            logger.warning(
                "round %d: class %d is suspected of a backdoor, anomaly %.1f",
                record.round,
                found.suspected_class,
                found.anomaly,
            )
        return alarmed

    def _sanitize(self, record: RoundDraft, suspect: nn.Module, state: State | None) -> Sanitized:
        started = time.perf_counter()
        try:
            with idle_defenses() as idle:
                sanitized = apply_sanitizer(
                    self.sanitizer,
                    suspect,
                    self.spec,
                    seed=self.seed * 1_000_003 + record.round,
                    state=state,
                )
        finally:
            record.sanitize_seconds = time.perf_counter() - started
        record.details.update(sanitized.details)
        if idle:
            record.details["no_effect"] = "; ".join(idle)
            logger.warning("round %d: %s", record.round, record.details["no_effect"])
        return sanitized
