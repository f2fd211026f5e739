"""The alarm's bound, from runs of a scenario without attackers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_defense.alarm import calibrated_bound
from fl_defense.records import read_records
from simulations.scenario import ConfigError, Scenario, load_scenario

SAME = ("data", "partition", "model", "clients", "training", "aggregator")
"""Parts of a scenario in which runs must agree to be of one task."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What inspections of models without a backdoor found."""

    anomalies: list[float]
    """Of every inspected round, ascending."""
    bound: float
    """What the asked share of them exceeds."""


def calibrate(folders: Sequence[Path], false_positive_rate: float) -> Calibration:
    """Take the bound from the inspected rounds of finished or interrupted runs.

    Args:
        folders: results folders of one scenario's runs without attackers, that differ in the seed.
        false_positive_rate: share of benign rounds that may raise an alarm, in (0, 1).

    Raises:
        ConfigError: if a folder holds no such run, the runs are of different tasks, or too few
            rounds were inspected for the rate.
    """
    first: dict[str, Any] = {}
    anomalies: list[float] = []
    for folder in folders:
        scenario = load_scenario(folder / "scenario.yaml")
        if scenario.malicious_clients:
            raise ConfigError(
                [f"{folder}: has attackers; calibrate on runs with --set attack.name=none"]
            )
        task = _task(scenario)
        differing = [name for name, part in task.items() if first.get(name, part) != part]
        if differing:
            raise ConfigError(
                [f"{folder}: {differing[0]} differs from {folders[0]}; calibrate each task apart"]
            )
        first = first or task
        anomalies += _anomalies(folder)
    try:
        bound = calibrated_bound(anomalies, false_positive_rate)
    except ValueError as error:
        raise ConfigError([f"calibrate: {error}; run other seeds"]) from error
    return Calibration(anomalies=sorted(anomalies), bound=bound)


def _task(scenario: Scenario) -> dict[str, Any]:
    described = scenario.model_dump(mode="json")
    return {name: described[name] for name in SAME} | {
        "repair.inspection": described["repair"]["inspection"]
    }


def _anomalies(folder: Path) -> list[float]:
    try:
        records = read_records(folder / "rounds.jsonl")
    except (OSError, ValueError) as error:
        raise ConfigError([f"{folder}: holds no readable run ({error})"]) from error
    found = [record.details["anomaly"] for record in records if "anomaly" in record.details]
    if not found:
        raise ConfigError(
            [
                f"{folder}: no round was inspected; "
                "run it with --set repair.schedule.on-suspicion=history"
            ]
        )
    return found
