"""The laws that every sanitizer keeps, and proof that a broken law is caught."""

import copy
import dataclasses
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from fl_defense import sanitizers, search, surrogates
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import (
    BCU,
    CLP,
    DHBE,
    SANITIZERS,
    ContractError,
    DeepCleanse,
    DeepSanitizer,
    NoDefense,
    NoEffectWarning,
    Pipeline,
    Sanitized,
    Sanitizer,
    apply_sanitizer,
    check_sanitizer,
)
from fl_defense.testing import SANITIZER_LAWS
from simulations.scenario.fields import field_docs

QUICK: dict[str, Sanitizer] = {
    "none": NoDefense(),
    # Nothing tolerated: a network without a backdoor would be left as it is.
    "dhbe": DHBE(
        iterations=2,
        batch_size=8,
        num_scenes=32,
        patch_size=3,
        tolerated_gain=0.0,
        warm_start=True,
    ),
    "deep-sanitizer": DeepSanitizer(
        steps=2,
        batch_size=8,
        num_dummies=32,
        balancing_steps=2,
        patch_size=3,
        warm_start=True,
        tolerated_gain=0.0,
    ),
    "bcu": BCU(num_images=32, epochs=2, batch_size=8),
    "deep-cleanse": DeepCleanse(
        num_images=32, num_limit_images=16, completion_width=2, completion_steps=2, batch_size=8
    ),
    "clp": CLP(threshold=0.5),
}
"""One cheap instance of each defense; a defense without one fails the first test."""

IN_ORDER = Pipeline(steps=(QUICK["clp"], QUICK["dhbe"]))

every_sanitizer = pytest.mark.parametrize(
    "sanitizer", [*QUICK.values(), IN_ORDER], ids=[*QUICK, "in order"]
)


def test_every_sanitizer_is_under_these_laws() -> None:
    assert QUICK.keys() == SANITIZERS.keys()
    assert all(type(QUICK[name]) is cls for name, cls in SANITIZERS.items())


@every_sanitizer
@pytest.mark.parametrize("law", SANITIZER_LAWS)
def test_every_law_is_kept(
    law: str, sanitizer: Sanitizer, tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    SANITIZER_LAWS[law](sanitizer, tiny_model, tiny_spec)


@every_sanitizer
def test_what_is_told_of_a_repair(
    sanitizer: Sanitizer, tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    result = apply_sanitizer(sanitizer, tiny_model, tiny_spec)
    assert not result.model.training
    assert result.seconds > 0
    assert all(type(value) is float for value in result.details.values())


@pytest.mark.parametrize("name", ["dhbe", "deep-sanitizer", "bcu"])
def test_the_cost_that_is_told_is_what_the_network_saw(
    name: str, tiny_model: nn.Sequential, tiny_spec: ModelSpec
) -> None:
    seen = 0.0

    def note(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal seen
        seen += len(output) / 2

    # A pass through one part of a network that was cut is half a pass.
    tiny_model[0].register_forward_hook(note)
    tiny_model[-1].register_forward_hook(note)
    details = apply_sanitizer(QUICK[name], tiny_model, tiny_spec).details
    # But for single images on which the layout of the network is looked at.
    assert details["forward_images"] <= seen <= details["forward_images"] + 5
    assert details["forward_images"] > 100


@pytest.mark.parametrize("name", ["dhbe", "deep-sanitizer", "bcu"])
def test_frozen_layers_stay_and_a_frozen_model_is_refused(name: str, tiny_spec: ModelSpec) -> None:
    sanitizer = QUICK[name]
    torch.manual_seed(0)
    model = tiny_spec.build().eval()
    frozen = [name for name, _ in model.named_parameters()][-2:]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    repaired = apply_sanitizer(sanitizer, model, tiny_spec).model
    for name, parameter in repaired.named_parameters():
        before = model.get_parameter(name)
        assert parameter.requires_grad == before.requires_grad, name
        if name in frozen:
            assert torch.equal(parameter, before), name
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        check_sanitizer(sanitizer, model, tiny_spec)


class Detached(nn.Sequential):
    """Frozen by cutting the gradient off, not by `requires_grad_(False)`."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self[1](self[0](images).detach())


@pytest.mark.parametrize("name", ["dhbe", "deep-sanitizer"])
def test_a_network_that_gradients_do_not_pass_is_refused(name: str, tiny_spec: ModelSpec) -> None:
    *features, last = tiny_spec.build().children()
    model = Detached(nn.Sequential(*features), last).eval()
    with pytest.raises(ValueError, match="passes no gradient back to its images"):
        check_sanitizer(QUICK[name], model, replace(tiny_spec, inspect_at="0"))


@every_sanitizer
def test_repr_evaluates_to_an_equal_value(sanitizer: Sanitizer) -> None:
    assert eval(repr(sanitizer), vars(sanitizers) | vars(surrogates) | vars(search)) == sanitizer


@every_sanitizer
def test_every_field_has_a_sentence(sanitizer: Any) -> None:
    docs = field_docs(type(sanitizer))
    assert [f.name for f in dataclasses.fields(sanitizer) if not docs.get(f.name)] == []


@dataclass(frozen=True)
class Spoils(Sanitizer):
    """A sanitizer that breaks one law."""

    how: str
    changes_models: ClassVar[bool] = True

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: Any = None, reference: Any = None
    ) -> Sanitized:
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


def test_a_sanitizer_without_a_check_takes_any_model(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    check_sanitizer(Spoils("nothing"), tiny_model, tiny_spec)


def test_doing_nothing_warns(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    with pytest.warns(NoEffectWarning, match="Spoils left the model unchanged"):
        apply_sanitizer(Spoils("nothing"), tiny_model, tiny_spec)
