from typing import Any

import pytest
import torch

from benchmarks.networks import KINDS, is_held, setting_of, table
from benchmarks.victims import MODELS, Setting


def row(**fields: Any) -> dict[str, Any]:
    usual = {
        "kind": "MLP", "defense": "dhbe", "seed": 0, "verdict": "repaired", "refused": None,
        "before": {"accuracy": 0.9, "attack_success_rate": 1.0, "robust_accuracy": 0.0},
        "after": {"accuracy": 0.88, "attack_success_rate": 0.05, "robust_accuracy": 0.8},
    }  # fmt: skip
    return usual | fields


CLEAN = {
    "verdict": "nothing found",
    "after": {"accuracy": 0.885, "attack_success_rate": 0.1, "robust_accuracy": 0.8},
}


@pytest.mark.parametrize(
    ("fields", "held"),
    [
        ({}, True),
        ({"after": {"accuracy": 0.88, "attack_success_rate": 0.5, "robust_accuracy": 0.4}}, False),
        ({"after": {"accuracy": 0.85, "attack_success_rate": 0.0, "robust_accuracy": 0.8}}, False),
        (
            {
                "after": {"accuracy": 0.88, "attack_success_rate": 0.5, "robust_accuracy": 0.4},
                "verdict": "not repaired",
            },
            True,
        ),
        (
            {
                "after": {"accuracy": 0.1, "attack_success_rate": 0.5, "robust_accuracy": 0.4},
                "refused": "agreement 0.1",
            },
            True,
        ),
        (
            {
                "after": {"accuracy": 0.88, "attack_success_rate": 0.5, "robust_accuracy": 0.4},
                "verdict": "not verified",
            },
            True,
        ),
        ({"kind": "Flower's template, clean", **CLEAN}, True),
        (
            {
                "kind": "Flower's template, clean",
                "verdict": "not verified",
                "after": {"accuracy": 0.875, "attack_success_rate": 0.0, "robust_accuracy": 0.8},
            },
            False,
        ),
    ],
)
def test_a_row_is_held_if_it_is_repaired_or_told(fields: dict[str, Any], held: bool) -> None:
    assert is_held(row(**fields)) == held


def test_the_table_tells_means_verdicts_and_refusals() -> None:
    refused = {"refused": "the model cannot be cut", "seconds": 1.0}
    gone = {name: value for name, value in row(seed=2).items() if name not in ("after", "verdict")}
    lines = table([row(), row(seed=1, verdict="not repaired"), gone | refused]).splitlines()
    assert lines[2] == (
        "| MLP | 0, 1, 2 | 0.900 / 1.000 / 0.000 | 0.880 / 0.050 / 0.800 "
        "(1 repaired, 1 not repaired, 1 refused) | 3 of 3 |"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_names_a_victim(kind: str) -> None:
    setting = setting_of(kind, 3, small=True)
    assert setting.model in MODELS
    assert len(setting.key) == 16


@pytest.mark.parametrize("name", ["template-net", "mlp", "small-vit", "small-convnext"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_small_networks_take_both_shapes(name: str, shape: tuple[int, int, int]) -> None:
    if shape[1] % 16 and name == "small-convnext":
        return
    network = MODELS[name].build(shape, 7).eval()
    assert network(torch.zeros(2, *shape)).shape == (2, 7)


def test_optimizers_give_victims_names_of_their_own() -> None:
    usual = Setting(data="digits", trigger="clean", seed=0)
    other = Setting(data="digits", trigger="clean", seed=0, optimizer="adam")
    assert usual.key != other.key
