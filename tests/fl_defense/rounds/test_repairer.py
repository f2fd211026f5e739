import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from fl_defense.inspections import TriggerSearch
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.gate import DoNoHarmGate
from fl_defense.rounds.repairer import Repairer, RepairOutcome, RepairState
from fl_defense.rounds.schedule import Schedule
from fl_defense.sanitizers import Sanitized, Sanitizer
from fl_defense.state import State
from tests.fl_defense.rounds.test_verdict import Weighing


@dataclass(frozen=True, kw_only=True)
class Drawing(Sanitizer):
    """Changes nothing; notes a number that it draws, as methods draw their images."""

    drawn: list[float] = field(default_factory=list)

    changes_models: ClassVar[bool] = False

    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: State | None = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        self.drawn.append(torch.rand(()).item())
        return Sanitized(model=suspect)


def drawn(model: nn.Module, spec: ModelSpec, rounds: list[int], seed: int) -> list[float]:
    sanitizer, device = Drawing(), torch.device("cpu")
    repairer = Repairer(
        sanitizer=sanitizer, spec=spec, schedule=Schedule(), inspection=TriggerSearch(), verify=None,
        gate=DoNoHarmGate(spec, model, 0.5, seed=0, device=device), on_failure="raise", seed=seed,
        device=device,
    )  # fmt: skip
    for server_round in rounds:
        repairer.repair(server_round, model, RepairState(), num_rounds=9, previous=lambda: None)
    return sanitizer.drawn


def test_each_round_and_each_seed_draws_its_own_and_draws_it_again(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    first = drawn(tiny_model, tiny_spec, [1, 2, 3], seed=0)
    other = drawn(tiny_model, tiny_spec, [1, 2, 3], seed=1)
    assert len({*first, *other}) == 6
    assert drawn(tiny_model, tiny_spec, [3, 1], seed=0) == [first[2], first[0]]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Multiplies all weights."""

    factor: float

    changes_models: ClassVar[bool] = True

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: State | None = None
    ) -> Sanitized:
        model = copy.deepcopy(suspect)
        for parameter in model.parameters():
            parameter.data *= self.factor
        return Sanitized(model=model)


def repaired(
    model: nn.Module, spec: ModelSpec, factor: float, *, least: float = 0.0, **fields: Any
) -> RepairOutcome:
    device = torch.device("cpu")
    settings: dict[str, Any] = {
        "sanitizer": Scaling(factor=factor), "spec": spec, "schedule": Schedule(),
        "inspection": TriggerSearch(), "verify": Weighing(bar=sum_of(model) / 2),
        "gate": DoNoHarmGate(spec, model, least, seed=0, device=device), "on_failure": "keep",
        "seed": 0, "device": device,
    }  # fmt: skip
    repairer = Repairer(**settings | fields)
    return repairer.repair(1, model, RepairState(), num_rounds=9, previous=lambda: None)


def sum_of(model: nn.Module) -> float:
    return sum(each.sum().item() for each in model.parameters())


@pytest.fixture
def heavy(tiny_model: nn.Module) -> nn.Module:
    for parameter in tiny_model.parameters():
        parameter.data = parameter.data.abs()
    return tiny_model


def test_a_repair_that_leaves_the_trigger_is_harmless_and_told_to_be_none(
    heavy: nn.Module, tiny_spec: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = repaired(heavy, tiny_spec, 0.9)
    assert (outcome.accepted, outcome.verdict) == (True, "not repaired")
    assert "round 1: not repaired (before: patch to class 3, anomaly" in caplog.text
    assert outcome.details["found_anomaly"] == pytest.approx(sum_of(heavy))
    assert outcome.details["left_anomaly"] == pytest.approx(0.9 * sum_of(heavy))
    assert outcome.verify_seconds > 0


def test_a_repair_that_worked_is_no_warning(
    heavy: nn.Module, tiny_spec: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    assert repaired(heavy, tiny_spec, 0.4).verdict == "repaired"
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_of_a_refused_repair_the_model_that_is_kept_is_judged(
    heavy: nn.Module, tiny_spec: ModelSpec
) -> None:
    outcome = repaired(heavy, tiny_spec, -1.0, least=1.0)
    assert "refused" in outcome.details
    assert outcome.verdict == "not repaired"


def test_scenes_of_the_verification_are_not_the_repairs(
    heavy: nn.Module, tiny_spec: ModelSpec
) -> None:
    verify = Weighing()
    repaired(heavy, tiny_spec, 0.4, verify=verify, seed=2)
    assert verify.seeds == [2 * 1_000_003 + 1 + 500_000] * 2


def test_without_verification_and_of_unchanged_weights_there_is_no_verdict(
    heavy: nn.Module, tiny_spec: ModelSpec
) -> None:
    assert repaired(heavy, tiny_spec, 0.4, verify=None).verdict is None
    assert repaired(heavy, tiny_spec, 0.4, sanitizer=Drawing()).verdict is None


def test_a_verification_that_fails_costs_no_repair(heavy: nn.Module, tiny_spec: ModelSpec) -> None:
    outcome = repaired(heavy, tiny_spec, 0.4, verify=Weighing(bar=None))
    assert (outcome.accepted, outcome.verdict) == (True, None)
    assert outcome.details["verify_failure"] == (
        "ValueError: Weighing has no bar for such a model; take another"
    )
