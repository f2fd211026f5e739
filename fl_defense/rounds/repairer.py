"""What happens to an aggregate: is a repair due, is it suspected, sanitize, accept or refuse."""

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from fl_defense.inspections import Inspection
from fl_defense.log import logger
from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import ModelSpec, try_model
from fl_defense.rounds.gate import DoNoHarmGate
from fl_defense.rounds.schedule import Schedule
from fl_defense.rounds.suspicion import Monitor, SuspicionRule
from fl_defense.rounds.verdict import Word, judge
from fl_defense.sanitizers.apply import apply_sanitizer, check_sanitizer, idle_defenses
from fl_defense.sanitizers.base import Sanitized, Sanitizer
from fl_defense.state import State

OnFailure = Literal["keep", "previous", "raise"]
VERIFYING = 500_000
"""Added to a repair's seed for the seed of its verification."""


def check_defense(
    sanitizer: Sanitizer, spec: ModelSpec, inspection: Inspection | None
) -> nn.Module:
    """Try, before any round, whether a model of `spec` can be built, repaired and inspected.

    Returns:
        The model that was tried.

    Raises:
        ValueError: if it cannot; the message says why.
    """
    if isinstance(sanitizer, type) or not callable(getattr(sanitizer, "sanitize", None)):
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
    return model


@dataclass(frozen=True, kw_only=True)
class RepairState:
    """What a repairer carries from round to round."""

    defense: State | None = None
    """The sanitizer's own, for its next call."""
    monitor: State | None = None
    """What earlier inspections found, where the schedule asks for them."""


@dataclass(frozen=True, kw_only=True)
class RepairOutcome:
    """What became of an aggregate."""

    model: nn.Module
    """The weights to release: the repaired ones, or those that are kept."""
    deployed: DeployedModel
    """The model as it is put into service, a purifier included."""
    state: RepairState
    """For the next round."""
    sanitized: bool = False
    """The defense ran."""
    accepted: bool = False
    """Its result passed the do-no-harm gate and was taken."""
    agreement: float | None = None
    """What the gate measured."""
    seconds: float = 0.0
    """Wall-clock time of the defense."""
    verify_seconds: float = 0.0
    """Wall-clock time of the searches for the verdict."""
    verdict: Word | None = None
    """Whether the repair worked, as far as a search sees; None: nothing was verified."""
    details: dict[str, Any] = field(default_factory=dict)
    """Numbers of the defense, the inspection and the verdict; a refusal, a failure."""


@dataclass(frozen=True, kw_only=True)
class Repairer:
    """Repairs aggregates; the fields are `SanitizingStrategy`'s arguments of the same names."""

    sanitizer: Sanitizer
    spec: ModelSpec
    schedule: Schedule
    inspection: Inspection
    verify: Inspection | None
    gate: DoNoHarmGate
    on_failure: OnFailure
    seed: int
    device: torch.device

    def _monitor(self, suspect: nn.Module) -> Monitor:
        """Return what inspects this round's aggregate."""
        asked, bound = self.schedule.on_suspicion, None
        if asked == "screens":
            bound = self.inspection.bar_for(suspect, self.spec)
        elif isinstance(asked, float | int):
            bound = float(asked)
        rule = SuspicionRule(bound=bound)
        return Monitor(spec=self.spec, alarm=rule, inspection=self.inspection, seed=self.seed)

    def repair(
        self,
        server_round: int,
        suspect: nn.Module,
        state: RepairState,
        *,
        num_rounds: int,
        screens_suspect: bool = False,
        reference: Callable[[], nn.Module] | None = None,
        previous: Callable[[], nn.Module | None],
        federated: Collection[str] | None = None,
    ) -> RepairOutcome:
        """Repair an aggregate if that is due, and say what became of it and whether it worked.

        Args:
            server_round: counted from 1.
            suspect: the aggregate, in eval mode; stays untouched.
            state: of the round before.
            num_rounds: rounds in all.
            screens_suspect: whether a screen suspects what it let through.
            reference: makes an earlier model that is trusted, where there is one.
            previous: makes the model that was released last, for `on_failure` "previous".
            federated: names of the arrays that are sent, and alone may change; None: all are.
        """
        deployed = DeployedModel(suspect, self.spec.pixels)
        kept = RepairOutcome(model=suspect, deployed=deployed, state=state)
        alarmed, kept = self._inspect(server_round, kept)
        if self.schedule.on_suspicion == "screens":
            alarmed = alarmed or screens_suspect
        if not self.schedule.is_due(server_round, num_rounds, alarmed=alarmed):
            return kept
        repaired = self._repaired(server_round, kept, previous, reference, federated)
        return self._verified(server_round, suspect, repaired)

    def _repaired(
        self,
        server_round: int,
        kept: RepairOutcome,
        previous: Callable[[], nn.Module | None],
        reference: Callable[[], nn.Module] | None,
        federated: Collection[str] | None,
    ) -> RepairOutcome:
        suspect, unrepaired = kept.model, kept.deployed
        started = time.perf_counter()
        try:
            trusted = None if reference is None else reference()
            sanitized, idle = self._sanitize(
                server_round, suspect, kept.state.defense, trusted, federated
            )
            seconds = time.perf_counter() - started
            deployed = sanitized.deployed(self.spec)
            agreement = self.gate.agreement(unrepaired, deployed)
            fault = self.gate.fault(deployed)
        except Exception as error:
            if self.on_failure == "raise":
                raise
            logger.exception("round %d: the defense failed", server_round)
            return self._failed(kept, error, time.perf_counter() - started, previous)
        details = {**kept.details, **sanitized.details, **idle}
        ran = replace(kept, sanitized=True, agreement=agreement, seconds=seconds, details=details)
        reason = fault or self.gate.refusal(agreement)
        if reason is not None:
            logger.warning("round %d: repair refused, %s", server_round, reason)
            # Generators that ruined this model would start from there: begin afresh.
            return _without_defense_state(ran, refused=reason)
        return replace(
            ran,
            model=sanitized.model,
            deployed=deployed,
            accepted=True,
            state=replace(kept.state, defense=sanitized.state),
        )

    def _failed(
        self,
        kept: RepairOutcome,
        error: Exception,
        seconds: float,
        previous: Callable[[], nn.Module | None],
    ) -> RepairOutcome:
        reason = f"{type(error).__name__}: {error}"
        outcome = _without_defense_state(
            replace(kept, sanitized=True, seconds=seconds), failure=reason
        )
        last = previous() if self.on_failure == "previous" else None
        if last is None:
            return outcome
        return replace(outcome, model=last, deployed=DeployedModel(last, self.spec.pixels))

    def _verified(
        self, server_round: int, suspect: nn.Module, outcome: RepairOutcome
    ) -> RepairOutcome:
        """Add the verdict on a repair; what leaves the weights as they are has none."""
        if self.verify is None or not getattr(self.sanitizer, "changes_models", True):
            return outcome
        started = time.perf_counter()
        # Another seed than the repair's: scenes that it has not been fitted to.
        seed = self._seed_of(server_round) + VERIFYING
        try:
            verdict = judge(self.verify, self.spec, suspect, outcome.model, seed=seed)
        except Exception as error:
            if self.on_failure == "raise":
                raise
            logger.exception("round %d: the repair could not be verified", server_round)
            failure = f"{type(error).__name__}: {error}"
            return replace(outcome, details={**outcome.details, "verify_failure": failure})
        level = logging.WARNING if verdict.word.startswith("not ") else logging.INFO
        logger.log(level, "round %d: %s (%s)", server_round, verdict.word, verdict.reason)
        return replace(
            outcome,
            verdict=verdict.word,
            verify_seconds=time.perf_counter() - started,
            details={**outcome.details, **verdict.details},
        )

    def _inspect(self, server_round: int, kept: RepairOutcome) -> tuple[bool, RepairOutcome]:
        """Inspect the aggregate if the schedule asks for it; return whether that is an alarm."""
        if not self.schedule.asks(server_round):
            return False, kept
        started = time.perf_counter()
        try:
            monitor = self._monitor(kept.model)
            found, alarmed, state = monitor.look(kept.model, kept.state.monitor)
        except Exception as error:
            if self.on_failure == "raise":
                raise
            logger.exception("round %d: the inspection failed, repair to be safe", server_round)
            failure = {"inspection_failure": f"{type(error).__name__}: {error}"}
            # What could not be read would not be readable in the next round.
            return True, replace(kept, details=failure, state=replace(kept.state, monitor=None))
        details: dict[str, Any] = {
            "inspect_seconds": time.perf_counter() - started,
            "anomaly": found.anomaly,
            "suspected_class": found.suspected_class,
            "alarm": alarmed,
        }
        if alarmed:
            logger.warning(
                "round %d: class %d is suspected of a backdoor, anomaly %.1f",
                server_round,
                found.suspected_class,
                found.anomaly,
            )
        return alarmed, replace(kept, details=details, state=replace(kept.state, monitor=state))

    def _sanitize(
        self,
        server_round: int,
        suspect: nn.Module,
        state: State | None,
        reference: nn.Module | None,
        federated: Collection[str] | None,
    ) -> tuple[Sanitized, dict[str, str]]:
        """Return what the sanitizer made, and what defenses that did nothing said of it."""
        with idle_defenses() as idle:
            sanitized = apply_sanitizer(
                self.sanitizer,
                suspect,
                self.spec,
                seed=self._seed_of(server_round),
                state=state,
                reference=reference,
                federated=federated,
            )
        if not idle:
            return sanitized, {}
        said = "; ".join(idle)
        logger.warning("round %d: %s", server_round, said)
        return sanitized, {"no_effect": said}

    def _seed_of(self, server_round: int) -> int:
        return self.seed * 1_000_003 + server_round


def _without_defense_state(outcome: RepairOutcome, **details: str) -> RepairOutcome:
    """Return an outcome after which the defense begins afresh, with more details."""
    return replace(
        outcome,
        state=replace(outcome.state, defense=None),
        details={**outcome.details, **details},
    )
