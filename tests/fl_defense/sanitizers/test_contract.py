"""The laws that every sanitizer keeps, and proof that a broken law is caught."""

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from fl_defense.model_spec import ModelSpec
from fl_defense.sanitizers import (
    DHBE,
    SANITIZERS,
    ContractError,
    DeepSanitizer,
    NoDefense,
    NoEffectWarning,
    Sanitized,
    Sanitizer,
    apply_sanitizer,
)
from simulations.choices import field_docs

QUICK: dict[str, Sanitizer] = {
    "none": NoDefense(),
    "dhbe": DHBE(iterations=2, batch_size=8, num_scenes=32, patch_size=3, warm_start=True),
    "deep-sanitizer": DeepSanitizer(
        steps=2, batch_size=8, num_dummies=32, balancing_steps=2, patch_size=3, warm_start=True
    ),
}
"""One cheap instance of each defense; a defense without one fails the first test."""

every_sanitizer = pytest.mark.parametrize("sanitizer", QUICK.values(), ids=QUICK.keys())


def weights_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def test_every_sanitizer_is_under_these_laws() -> None:
    assert QUICK.keys() == SANITIZERS.keys()
    assert all(type(QUICK[name]) is cls for name, cls in SANITIZERS.items())


@every_sanitizer
def test_result_replaces_the_suspect(
    sanitizer: Sanitizer, tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    result = apply_sanitizer(sanitizer, tiny_model, tiny_spec)
    tiny_spec.build().load_state_dict(result.model.state_dict())
    assert not result.model.training
    assert result.seconds > 0
    assert all(type(value) is float for value in result.details.values())
    logits = result.deployed(tiny_spec)(torch.rand(2, 1, 8, 8))
    assert logits.shape == (2, 3)


@every_sanitizer
def test_same_seed_same_weights_and_global_randomness_untouched(
    sanitizer: Sanitizer, tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = weights_of(apply_sanitizer(sanitizer, tiny_model, tiny_spec, seed=1).model)
    assert torch.equal(torch.rand(3), expected)
    again = weights_of(apply_sanitizer(sanitizer, tiny_model, tiny_spec, seed=1).model)
    assert torch.equal(first, again)
    if sanitizer.changes_models:
        other = weights_of(apply_sanitizer(sanitizer, tiny_model, tiny_spec, seed=2).model)
        assert not torch.equal(first, other)


@every_sanitizer
def test_state_goes_into_the_next_call(
    sanitizer: Sanitizer, tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    first = apply_sanitizer(sanitizer, tiny_model, tiny_spec, seed=1)
    kept = copy.deepcopy(first.state)
    second = apply_sanitizer(sanitizer, tiny_model, tiny_spec, seed=1, state=first.state)
    if first.state is not None:
        assert not torch.equal(weights_of(first.model), weights_of(second.model))
        assert repr(first.state) == repr(kept)


@every_sanitizer
def test_mode_of_the_suspect_is_restored(sanitizer: Sanitizer, tiny_spec: ModelSpec) -> None:
    model = tiny_spec.build().train()
    apply_sanitizer(sanitizer, model, tiny_spec)
    assert model.training


@every_sanitizer
def test_repr_evaluates_to_an_equal_value(sanitizer: Sanitizer) -> None:
    assert eval(repr(sanitizer), {type(sanitizer).__name__: type(sanitizer)}) == sanitizer


@every_sanitizer
def test_every_field_has_a_sentence(sanitizer: Any) -> None:
    docs = field_docs(type(sanitizer))
    assert [f.name for f in dataclasses.fields(sanitizer) if not docs.get(f.name)] == []


@dataclass(frozen=True)
class Spoils:
    """A sanitizer that breaks one law."""

    how: str
    changes_models: ClassVar[bool] = True

    def sanitize(self, suspect: nn.Module, spec: ModelSpec, state: Any = None) -> Sanitized:
        model = copy.deepcopy(suspect).eval()
        weight = next(model.parameters())
        if self.how == "mutates":
            next(suspect.parameters()).data.add_(1)
        elif self.how == "nan":
            weight.data[0] = float("nan")
        elif self.how == "architecture":
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
        elif self.how == "dtype":
            model = model.double()
        elif self.how == "train mode":
            weight.data.add_(1)
            model.train()
        return Sanitized(model=model)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("mutates", "the suspect must stay untouched"),
        ("nan", "the result must be finite"),
        ("architecture", "must have the suspect's arrays"),
        ("dtype", "must stay"),
        ("train mode", "must be in eval mode"),
    ],
)
def test_a_broken_law_is_caught(
    how: str, message: str, tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    with pytest.raises(ContractError, match=f"Spoils: .*{message}"):
        apply_sanitizer(Spoils(how), tiny_model, tiny_spec)


def test_doing_nothing_warns(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    with pytest.warns(NoEffectWarning, match="Spoils left the model unchanged"):
        apply_sanitizer(Spoils("nothing"), tiny_model, tiny_spec)
