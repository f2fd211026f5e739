"""The laws for third parties catch who breaks them."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import nn

from fl_defense.inspections import FreeEagle
from fl_defense.inspections.base import Inspection
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import CLP, ContractError, Sanitized, Sanitizer
from fl_defense.screens import NormClipping, Reply, ScreenedRound
from fl_defense.testing import (
    check_inspection_contract,
    check_sanitizer_contract,
    check_screen_contract,
)


@dataclass(frozen=True, kw_only=True)
class Careless(Sanitizer):
    """Breaks one law that no single call shows."""

    how: Literal["draws elsewhere", "ignores its state", "refuses", "ruins", "scribbles"]

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        if self.how == "refuses":
            raise ValueError("no such models")
        if self.how == "scribbles":
            next(model.parameters()).data.add_(1)

    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: Any = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        model = copy.deepcopy(suspect)
        weight = next(model.parameters()).data
        if self.how == "draws elsewhere":
            weight += COUNTER.add_(1)
        elif self.how == "ruins":
            weight.fill_(float("nan"))
        else:
            weight += 1
        return Sanitized(
            model=model, state={"unused": 1} if self.how == "ignores its state" else None
        )


COUNTER = torch.zeros(())


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("draws elsewhere", AssertionError, "one seed, two results"),
        ("ignores its state", AssertionError, "and the same result: True"),
        ("refuses", ValueError, "no such models"),
        ("ruins", ContractError, "must be finite"),
        ("scribbles", AssertionError, "check must leave the model untouched"),
    ],
)
def test_a_careless_sanitizer_is_caught(
    how: Any, error: type[Exception], message: str, tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    with pytest.raises(error, match=message):
        check_sanitizer_contract(Careless(how=how), tiny_model, tiny_spec)


def test_ours_pass(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    check_sanitizer_contract(CLP(threshold=0.5), tiny_model, tiny_spec)
    check_inspection_contract(FreeEagle(steps=3), tiny_model, tiny_spec)


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A finding."""

    anomaly: float
    suspected_class: int
    kind: str = "guess"
    is_certain: bool = False
    state: Any = None


@dataclass(frozen=True, kw_only=True)
class Guesses(Inspection):
    """An inspection that breaks one law."""

    how: str

    def inspect(
        self, model: nn.Module, spec: ModelSpec, *, seed: int = 0, state: Any = None
    ) -> Any:
        if self.how == "global draws":
            torch.rand(1)
        if self.how == "scribbles":
            next(model.parameters()).data.add_(1)
        anomaly = float("nan") if self.how == "nan" else 1.0
        if self.how == "two findings":
            anomaly = float(COUNTER.add_(1))
        return Guess(anomaly=anomaly, suspected_class=99 if self.how == "no such class" else 0)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("global draws", "the global random state must stay"),
        ("scribbles", "the model must stay untouched"),
        ("two findings", "one seed must give one finding"),
        ("no such class", "suspected_class must be in 0..2"),
    ],
)
def test_a_careless_inspection_is_caught(
    how: str, message: str, tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    with pytest.raises(AssertionError, match=message):
        check_inspection_contract(Guesses(how=how), tiny_model, tiny_spec)


@dataclass(frozen=True, kw_only=True)
class Overwrites(NormClipping):
    """A screen that changes what it is shown."""

    def screen(self, shown: ScreenedRound, *args: Any, **kwargs: Any) -> Any:
        said = super().screen(shown, *args, **kwargs)
        next(iter(shown.replies[0].arrays.values())).add_(1)
        return said


def test_a_screen_is_held_to_its_contract(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    sent = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    replies = [
        Reply(
            node=node, arrays={name: value + node for name, value in sent.items()}, num_examples=9
        )
        for node in (1, 2, 3)
    ]
    shown = ScreenedRound(number=1, sent=sent, replies=replies)
    check_screen_contract(NormClipping(), shown, tiny_spec)
    with pytest.raises(AssertionError, match="node 1's reply must stay untouched"):
        check_screen_contract(Overwrites(), shown, tiny_spec)
