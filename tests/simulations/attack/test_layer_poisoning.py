from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from simulations.attack import layer_poisoning
from simulations.attack.context import AttackContext
from simulations.attack.layer_poisoning import LayerPoisoning, critical_layers, layers_of

NAMES = ["a.weight", "a.bias", "b.weight", "c.weight"]
HONEST = {name: torch.zeros(2) for name in NAMES} | {"a.count": torch.tensor(1)}
POISONED = {name: torch.ones(2) for name in NAMES} | {"a.count": torch.tensor(2)}
CARRIES = {"a.weight": 0.1, "b.weight": 0.6, "c.weight": 0.3}


def success(arrays: Mapping[str, Tensor]) -> float:
    """A model succeeds by what its poisoned layers carry."""
    return sum(share * float(arrays[name][0]) for name, share in CARRIES.items())


def test_layers_are_modules_in_the_models_order() -> None:
    assert layers_of(set(NAMES), list(HONEST)) == [
        ("a.weight", "a.bias"), ("b.weight",), ("c.weight",),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("enough", "layers"),
    [
        (0.5, [("b.weight",)]),
        (0.85, [("b.weight",), ("c.weight",)]),
        (1.0, [("b.weight",), ("c.weight",), ("a.weight", "a.bias")]),
    ],
)
def test_the_weightiest_layers_are_chosen_until_they_succeed(
    enough: float, layers: list[tuple[str, ...]]
) -> None:
    found = critical_layers(POISONED, HONEST, set(NAMES), success, enough)
    assert found == layers


def test_critical_layers_are_sent_poisoned_and_the_others_as_the_colluders_honest_mean(
    make_context: Callable[..., AttackContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {name: torch.full((2,), 0.5) for name in NAMES} | {"a.count": torch.tensor(3)}
    by_partition = {1: HONEST, 3: other}
    monkeypatch.setattr(layer_poisoning, "honest_arrays", lambda _, each: by_partition[each])
    monkeypatch.setattr(layer_poisoning, "_Success", lambda *_: success)
    context = make_context(
        received={name: torch.full((2,), -1.0) for name in NAMES} | {"a.count": torch.tensor(0)},
        weights=frozenset(NAMES),
    )
    sent = LayerPoisoning(enough=0.5, factor=0.5).craft(POISONED, context)
    # b: received -1, poisoned +2 away of which half, honest mean 1.25 away of which half.
    assert sent["b.weight"].tolist() == [-1 + 1 + 0.625] * 2
    assert sent["a.weight"].tolist() == sent["c.weight"].tolist() == [0.25, 0.25]
    assert sent["a.count"] == 1
    full = LayerPoisoning(enough=0.5, factor=1).craft(POISONED, context)
    assert full["b.weight"].tolist() == [1.0, 1.0]


def test_success_is_measured_on_the_attackers_own_triggered_images(
    make_context: Callable[..., AttackContext],
) -> None:
    context = make_context()
    measured = layer_poisoning._Success(context, 100)
    arrays: dict[str, Any] = {
        name: torch.zeros_like(value) for name, value in context.received.items()
    }
    assert measured(arrays | {"3.bias": torch.tensor([0.0, 0, 0, 5])}) == 1
    assert measured(arrays | {"3.bias": torch.tensor([5.0, 0, 0, 0])}) == 0


@pytest.mark.parametrize("fields", [{"enough": 0.0}, {"factor": 0.0}, {"num_images": 0}])
def test_meaningless_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        LayerPoisoning(**fields)
