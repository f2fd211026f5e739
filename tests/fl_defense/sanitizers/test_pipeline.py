import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import (
    CLP,
    ContractError,
    NoDefense,
    NoEffectWarning,
    Pipeline,
    Sanitized,
    Sanitizer,
    apply_sanitizer,
)


@dataclass(frozen=True)
class Shift(Sanitizer):
    """Adds to every weight, counts its calls in its state."""

    by: float
    changes_models: ClassVar[bool] = True

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: Any = None, reference: Any = None
    ) -> Sanitized:
        model = copy.deepcopy(suspect)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2).add_(self.by)
        calls = 1 + (state or {"calls": 0})["calls"]
        return Sanitized(
            model=model, state={"calls": calls}, details={"calls": calls, "draw": torch.rand(())}
        )


class Scale(nn.Module):
    def __init__(self, factor: float, offset: float) -> None:
        super().__init__()
        self.factor, self.offset = factor, offset

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * self.factor + self.offset


@dataclass(frozen=True)
class Purify(Sanitizer):
    """Leaves the model and returns a purifier."""

    factor: float
    offset: float
    changes_models: ClassVar[bool] = False

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: Any = None, reference: Any = None
    ) -> Sanitized:
        return Sanitized(model=copy.deepcopy(suspect), purify=Scale(self.factor, self.offset))


@dataclass(frozen=True)
class Ruin(Shift):
    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: Any = None, reference: Any = None
    ) -> Sanitized:
        next(suspect.parameters()).data.add_(1)
        return Sanitized(model=copy.deepcopy(suspect))


def test_steps_run_in_order(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    result = apply_sanitizer(Pipeline(steps=(Shift(1), Shift(5))), tiny_model, tiny_spec)
    for name, parameter in result.model.named_parameters():
        assert torch.allclose(parameter, (tiny_model.get_parameter(name) * 2 + 1) * 2 + 5)


def test_states_and_details_are_kept_apart(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    pipeline = Pipeline(steps=(Shift(1), CLP(threshold=0.5), Shift(2)))
    first = apply_sanitizer(pipeline, tiny_model, tiny_spec)
    assert first.state == {"1.Shift": {"calls": 1}, "3.Shift": {"calls": 1}}
    second = apply_sanitizer(pipeline, tiny_model, tiny_spec, state=first.state)
    assert second.details["3.Shift.calls"] == 2
    assert second.details["2.CLP.num_pruned"] > 0


def test_equal_steps_draw_different_numbers(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    details = apply_sanitizer(
        Pipeline(steps=(Shift(1), Shift(1))), tiny_model, tiny_spec, seed=3
    ).details
    assert details["1.Shift.draw"] != details["2.Shift.draw"]


def test_purifiers_stand_in_a_row(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    pipeline = Pipeline(steps=(Shift(1), Purify(2, 0), Purify(1, 3)))
    result = apply_sanitizer(pipeline, tiny_model, tiny_spec)
    assert result.purify is not None
    assert result.purify(torch.ones(1)).item() == 5


def test_every_step_is_held_to_the_contract(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    with pytest.raises(ContractError, match="Ruin: the suspect must stay untouched"):
        apply_sanitizer(Pipeline(steps=(Shift(1), Ruin(1))), tiny_model, tiny_spec)
    idle = Pipeline(steps=(CLP(threshold=100), Shift(1)))
    with pytest.warns(NoEffectWarning, match="CLP left the model unchanged"):
        apply_sanitizer(idle, tiny_model, tiny_spec)


def test_a_purifier_must_see_the_model_that_is_deployed() -> None:
    with pytest.raises(ValueError, match="got Purify before Shift; swap them"):
        Pipeline(steps=(Purify(1, 0), Shift(1)))


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one sanitizer"):
        Pipeline(steps=())


def test_steps_that_change_nothing_make_a_pipeline_that_changes_nothing() -> None:
    assert not Pipeline(steps=(NoDefense(),)).changes_models
    assert Pipeline(steps=(Shift(1), NoDefense())).changes_models
