"""Sums up a run."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from statistics import fmean
from typing import Any

import torch

from fl_defense.rounds.records import RoundRecord
from simulations.scenario.scenario import Scenario

RATES = (
    "accuracy",
    "attack_success_rate",
    "robust_accuracy",
    "accuracy_before",
    "attack_success_rate_before",
    "robust_accuracy_before",
    "accuracy_unpurified",
    "attack_success_rate_unpurified",
    "robust_accuracy_unpurified",
)


def summarize(
    scenario: Scenario, records: Sequence[RoundRecord], device: torch.device, seconds: float
) -> dict[str, Any]:
    """Return what summary.json holds.

    Args:
        scenario: the experiment.
        records: all rounds, round 0 first.
        device: where models were trained and repaired.
        seconds: wall-clock time of the whole run.
    """
    trained = [record for record in records if record.round > 0]
    attacked = _since_attack(trained)
    success = [
        rates["attack_success_rate"] for record in attacked for rates in _by_backdoor(record)
    ]
    return {
        "scenario": scenario.name,
        "seed": scenario.seed,
        "rounds": len(trained),
        "malicious": list(scenario.malicious_clients),
        "last_three_rounds": _means(map(asdict, trained[-3:]), RATES),
        "since_attack": _means(map(asdict, attacked), RATES),
        "backdoors": _means_by_backdoor(scenario, trained[-3:]),
        "worst_attack_success_rate": max(success, default=None),
        "num_repaired": sum(record.accepted for record in trained),
        "num_refused": sum("refused" in record.details for record in trained),
        "num_failed_repairs": sum("failure" in record.details for record in trained),
        "num_rejected": sum(record.num_rejected for record in trained),
        "num_failures": sum(record.num_failures for record in trained),
        "seconds": {
            "training": sum(record.train_seconds for record in trained),
            "repair": sum(record.sanitize_seconds for record in trained),
            "evaluation": sum(record.evaluate_seconds for record in records),
            "total": seconds,
        },
        "device": _describe(device),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("fl-defense", "flwr", "torch", "numpy")},
        },
    }


def _since_attack(trained: Sequence[RoundRecord]) -> Sequence[RoundRecord]:
    """Rounds from the first attacked one on; all of them if none was attacked."""
    first = next((record.round for record in trained if record.malicious), 1)
    return [record for record in trained if record.round >= first]


def _by_backdoor(record: RoundRecord) -> list[dict[str, float]]:
    return list(record.details.get("backdoors", ()))


def _means_by_backdoor(scenario: Scenario, records: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    measured = [rates for record in records if (rates := _by_backdoor(record))]
    return [
        {"place": place, **_means(rates, rates[0])}
        for place, *rates in zip(scenario.places_of_backdoors(), *measured, strict=True)
        if rates
    ]


def _means(rounds: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, float | None]:
    given = list(rounds)
    means: dict[str, float | None] = {}
    for name in names:
        rates = [rate for rates in given if (rate := rates[name]) is not None]
        means[name] = fmean(rates) if rates else None
    return means


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"
