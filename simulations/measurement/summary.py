"""Sums up a run."""

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from statistics import fmean
from typing import Any

import torch

from simulations.measurement.durability import durability
from simulations.measurement.measured_round import STAGES, MeasuredRound, Rates, rate_of
from simulations.measurement.verdicts import judge
from simulations.metrics import metrics_named
from simulations.scenario.scenario import Scenario

KEYS = {
    "scenario": "Name of the scenario.",
    "seed": "Its seed.",
    "rounds": "Rounds of training.",
    "malicious": "Partitions of the malicious clients.",
    "last_three_rounds": "Mean rates by stage and metric over the last three rounds.",
    "since_attack": "The same from the first attacked round on.",
    "backdoors": "For each backdoor its `place` in the scenario, and its `rates` over the last "
    "three rounds.",
    "worst_attack_success_rate": "The highest of the released models since the attack began.",
    "num_repaired": "Repairs that were taken.",
    "num_not_repaired": "Rounds after whose repair a search still found something.",
    "num_refused": "Repairs that the gate refused.",
    "num_failed_repairs": "Repairs that failed.",
    "num_rejected": "Replies that the check dropped, over all rounds.",
    "num_left_out": "Replies that the screens left out.",
    "num_failures": "Replies that never came.",
    "screens": "For each screen the replies it left out or kept, by whether they were malicious, "
    "with `precision`, `recall` and `false_positive_rate`, and the mean weights that it gave to "
    "both. A reply is malicious in a round in which its client attacks.",
    "durability": "For the stages `released` and `sent`: `rounds_until_asr_below` 0.5 and 0.1, "
    "counted from the end of the attack (null: never, or the attack went on), and `asr_area`, the "
    "mean height of the ASR's curve since the attack began.",
    "seconds": "Wall-clock seconds of each phase and of the whole run.",
    "share_of_time": "Each phase's share of the whole.",
    "device": "Where models were trained and repaired.",
    "versions": "Of Python and of what computes.",
    "seals": "Digests of all lines of `rounds.jsonl` together with `scenario.yaml`, of "
    "`model.safetensors`, and of this file without its own.",
}
"""What each key of summary.json means."""
LAST = 3
"""Rounds over whose end a run is summed up."""


def summarize(
    scenario: Scenario, rounds: Sequence[MeasuredRound], device: torch.device, seconds: float
) -> dict[str, Any]:
    """Return what summary.json holds.

    Args:
        scenario: the experiment.
        rounds: all of them, round 0 first.
        device: where models were trained and repaired.
        seconds: wall-clock time of the whole run.
    """
    trained = [each for each in rounds if each.round > 0]
    records = [each.record for each in trained]
    attacked = _since_attack(trained)
    success = [
        rate
        for each in attacked
        for rates in each.backdoors
        if (rate := rate_of(rates, "released", "attack_success_rate")) is not None
    ]
    return {
        "scenario": scenario.name,
        "seed": scenario.seed,
        "rounds": len(trained),
        "malicious": list(scenario.malicious_clients),
        "last_three_rounds": means(each.rates for each in trained[-LAST:]),
        "since_attack": means(each.rates for each in attacked),
        "backdoors": _by_backdoor(scenario, trained[-LAST:]),
        "worst_attack_success_rate": max(success, default=None),
        "num_repaired": sum(record.accepted for record in records),
        "num_not_repaired": sum(record.verdict == "not repaired" for record in records),
        "num_refused": sum("refused" in record.details for record in records),
        "num_failed_repairs": sum("failure" in record.details for record in records),
        "num_rejected": sum(record.num_rejected for record in records),
        "num_left_out": sum(record.num_left_out for record in records),
        "num_failures": sum(record.num_failures for record in records),
        "screens": judge(trained),
        "durability": {stage: durability(rounds, stage) for stage in ("released", "sent")},
        "seconds": (phases := seconds_by_phase(rounds)) | {"total": seconds},
        "share_of_time": {
            name: spent / seconds if seconds else 0.0 for name, spent in phases.items()
        },
        "device": _describe(device),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("fl-defense", "flwr", "torch", "numpy")},
        },
    }


def seconds_by_phase(rounds: Sequence[MeasuredRound]) -> dict[str, float]:
    """Return the wall-clock seconds of each phase over all rounds."""
    return {
        "training": sum(each.record.train_seconds for each in rounds),
        "screening": sum(each.record.screen_seconds for each in rounds),
        "inspection": sum(each.record.details.get("inspect_seconds", 0.0) for each in rounds),
        "repair": sum(each.record.sanitize_seconds for each in rounds),
        "verification": sum(each.record.verify_seconds for each in rounds),
        "evaluation": sum(each.evaluate_seconds for each in rounds),
    }


def means(rates: Iterable[Rates]) -> dict[str, dict[str, float]]:
    """Return the mean of each rate over the rounds in which it was measured."""
    given = list(rates)
    by_stage: dict[str, dict[str, float]] = {}
    names = metrics_named(name for each in given for rates in each.values() for name in rates)
    for stage in STAGES:
        for metric in names:
            measured = [
                rate for each in given if (rate := rate_of(each, stage, metric)) is not None
            ]
            if measured:
                by_stage.setdefault(stage, {})[metric] = fmean(measured)
    return by_stage


def _since_attack(trained: Sequence[MeasuredRound]) -> Sequence[MeasuredRound]:
    """Rounds from the first attacked one on; all of them if none was attacked."""
    first = next((each.round for each in trained if each.malicious), 1)
    return [each for each in trained if each.round >= first]


def _by_backdoor(scenario: Scenario, rounds: Sequence[MeasuredRound]) -> list[dict[str, Any]]:
    measured = [each.backdoors for each in rounds if each.backdoors]
    return [
        {"place": place, "rates": means(rates)}
        for place, *rates in zip(scenario.places_of_backdoors(), *measured, strict=True)
        if rates
    ]


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"
