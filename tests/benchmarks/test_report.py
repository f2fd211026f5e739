from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, report_federations
from tests.benchmarks.test_repair import row_of


def run_of(seed: int, rounds: int, device: str) -> dict[str, Any]:
    rates = dict.fromkeys(("accuracy", "attack_success_rate", "robust_accuracy"), 0.5)
    return {
        "seed": seed, "rounds": rounds, "device": device, "last_three_rounds": {"aggregate": rates, "released": rates},
        "seconds": {"training": 1.0, "repair": 1.0}, "num_repaired": 1, "num_refused": 0,
        "by_round": [],
    }  # fmt: skip


def test_a_federations_section_says_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = {
        "a variant of old": [run_of(5, 10, "cpu, 1 threads")],
        "defended": [run_of(seed, 15, "cpu, 2 threads") for seed in (0, 1)],
        "no attack": [run_of(0, 15, "cpu, 2 threads")],
    }
    monkeypatch.setattr(report_federations, "results_of", {"quickstart": results}.get)
    monkeypatch.setattr(report_federations, "DOCS", tmp_path)
    section = report_federations.federation("quickstart")
    assert (tmp_path / "quickstart-rounds.png").exists()
    command = "python -m benchmarks.federations configs/scenarios/quickstart.yaml --seeds"
    assert f'\n{command} 0 1 --variants "defended"\n{command} 0 --variants "no attack"\n' in section
    assert "settings that the script no longer has: a variant of old.\n" in section
    assert "10 or 15 rounds; cpu, 1 threads; cpu, 2 threads." in section
    assert "Round by round, seed 5, a variant of old;" in section


def test_a_round_is_followed_by_the_next_aggregate() -> None:
    records = [
        {"round": number, "agreement": agreement, "rates": {
            "aggregate": {"attack_success_rate": before},
            "released": {"accuracy": 0.9, "robust_accuracy": 0.8, "attack_success_rate": after},
        }}
        for number, agreement, before, after in ((1, None, 0.5, 0.5), (2, 0.9, 0.7, 0.1), (3, 1.0, 0.6, 0.2))
    ]  # fmt: skip
    _, _, *lines = report_federations.rounds(records).splitlines()
    assert lines == [
        "| 2 | 0.900 | 0.700 → 0.100 → 0.600 | 0.800 | 0.900 |",
        "| 3 | 0.900 | 0.600 → 0.200 | 0.800 | 1.000 |",
    ]


def test_defenses_stand_side_by_side_with_means_over_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [row_of(seed, sanitizer="dhbe") for seed in (0, 1)]
    for row, success in zip(rows, (0.1, 0.3), strict=True):
        row["after"] = {"accuracy": 0.9, "attack_success_rate": success, "robust_accuracy": 0.7}
    monkeypatch.setattr(report, "results_of", {"repair": rows}.get)
    assert "| dhbe | nothing | 0.900 / 0.200 / 0.700 |" in report.comparison()


def test_effectiveness_is_averaged_over_the_seeds_that_all_triggers_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        row_of(seed, sanitizer="dhbe", trigger=trigger, der=0.6 + 0.1 * number, model=model)
        for number, trigger in enumerate(report.ATTACKS)
        for model in ("resnet-10-w16", "resnet-18")
        for seed in ((0, 1) if trigger == "patch" else (0,))
        if (model, trigger) != ("resnet-18", "warped")
    ]
    rows[1]["der"] = 0.0  # seed 1 of the patch: no other trigger has it
    assert rows[1]["seed"] == 1
    monkeypatch.setattr(report, "results_of", {"repair": rows}.get)
    section = report.effectiveness()
    assert "| 0 | 0.600 | 0.700 | 0.800 | 0.900 | 0.750 |" in section
    assert "resnet-18" not in section


def test_the_repairs_heading_takes_its_values_from_the_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"poison_rate": 0.05, "target": 3, "device": "some GPU"}
    rows = [row_of(0, max_test=None, **told), row_of(1, max_test=1234, **told)]
    monkeypatch.setattr(report, "results_of", {"repair": rows}.get)
    section = " ".join(report.repairs().split())
    assert "Share of poisoned images: 0.05. Target class: 3. Test images: all or 1,234." in section
    assert "some GPU" in section
    assert "10,000" not in section


def repaired(before: float, after: float, agreement: float, lost: float = 0.0) -> dict[str, Any]:
    return {
        "agreement": agreement, "accepted": True, "rates": {
            "aggregate": {"accuracy": 0.9, "attack_success_rate": before},
            "released": {"accuracy": 0.9 - lost, "attack_success_rate": after},
        },
    }  # fmt: skip


def test_the_gate_counts_what_each_bound_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked = [
        repaired(0.9, 0.1, 0.75),
        repaired(0.9, 0.5, 0.3),  # not halved
        repaired(0.1, 0.0, 0.2),  # nothing to take away
        repaired(0.9, 0.0, 0.4) | {"agreement": None},  # not repaired
    ]
    clean = [repaired(0.0, 0.0, 0.65, lost=0.2), repaired(0.0, 0.0, 0.85, lost=0.01)]
    old = repaired(0.9, 0.1, 0.1)
    del old["rates"]["aggregate"]["accuracy"]
    runs = {
        "defended": [{"by_round": [*attacked, old]}],
        "no attack, dhbe": [{"by_round": clean}],
    }
    monkeypatch.setattr(report_federations, "results_of", {"digits_repair_only": runs}.get)
    lines = report_federations.gate().splitlines()
    assert "| 0.5 | 0 of 1 | 0 of 2 | 0.200 |" in lines
    assert "| 0.7 | 0 of 1 | 1 of 2 | 0.010 |" in lines
    assert "| 0.9 | 1 of 1 | 2 of 2 | – |" in lines
    monkeypatch.setattr(report_federations, "results_of", {}.get)
    assert report_federations.gate() == ""


def test_what_a_defense_needs_is_said_by_its_class_or_its_images() -> None:
    assert [report.needs(name) for name in ("clp", "bcu", "bcu on own data")] == [
        "BatchNorm", "nothing, or unlabelled images", "unlabelled images of the clients' kind",
    ]  # fmt: skip
