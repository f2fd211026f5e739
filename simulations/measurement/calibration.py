"""The alarm's bound, from runs of a scenario without attackers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from fl_defense.rounds.suspicion import calibrated_bound
from fl_defense.sanitizers import NoDefense
from simulations.measurement.results_folder import read_rounds
from simulations.scenario import ConfigError
from simulations.scenario.load import load_scenario
from simulations.scenario.scenario import Scenario

SAME = (
    "data", "partition", "model", "training", "aggregator", "clients.count", "clients.per-round",
    "repair.inspection", "repair.inspect-at", "repair.schedule.first-round",
)  # fmt: skip
"""Fields of a scenario in which runs must agree to be of one task."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What inspections of models without a backdoor found."""

    anomalies: list[float]
    """Of every inspected round, ascending."""
    bound: float
    """What the asked share of them exceeds."""


def calibrate(
    folders: Sequence[Path], false_positive_rate: float, *, trust: bool = False
) -> Calibration:
    """Take the bound from the inspected rounds of finished or interrupted runs.

    Args:
        folders: results folders of one scenario's runs without attackers, that differ in the seed.
        false_positive_rate: share of benign rounds that may raise an alarm, in (0, 1).
        trust: whether the folders' scenarios may name anybody's code, which is then run.

    Raises:
        ConfigError: if a folder holds no such run, the runs are of different tasks, or too few
            rounds were inspected for the rate.
    """
    first: dict[str, Any] = {}
    by_seed: dict[int, Path] = {}
    anomalies: list[float] = []
    for folder in folders:
        scenario = load_scenario(folder / "scenario.yaml", trust_imports=trust)
        _check_benign(folder, scenario)
        task = _task(scenario)
        differing = [name for name, part in task.items() if first.get(name, part) != part]
        if differing:
            raise ConfigError(
                [f"{folder}: {differing[0]} differs from {folders[0]}; calibrate each task apart"]
            )
        first = first or task
        if scenario.seed in by_seed:
            raise ConfigError(
                [f"{folder}: has the seed of {by_seed[scenario.seed]}; name each run once"]
            )
        by_seed[scenario.seed] = folder
        anomalies += _anomalies(folder)
    try:
        bound = calibrated_bound(anomalies, false_positive_rate)
    except ValueError as error:
        raise ConfigError([f"calibrate: {error}"]) from error
    return Calibration(anomalies=sorted(anomalies), bound=bound)


def _check_benign(folder: Path, scenario: Scenario) -> None:
    """Refuse a run whose aggregates are attacked, or come of repaired models."""
    if scenario.malicious_clients:
        raise ConfigError(
            [f"{folder}: has attackers; calibrate on runs with --set attack.name=none"]
        )
    if scenario.defense != NoDefense() and scenario.sends_repaired_models:
        raise ConfigError(
            [f"{folder}: its clients train on repaired models; run with --set defense.name=none"]
        )


def _task(scenario: Scenario) -> dict[str, Any]:
    described = scenario.model_dump(mode="json", by_alias=True)
    return {place: reduce(getitem, place.split("."), described) for place in SAME}


def _anomalies(folder: Path) -> list[float]:
    details = [each.record.details for each in read_rounds(folder)]
    found = [each["anomaly"] for each in details if "anomaly" in each]
    if not found:
        raise ConfigError(
            [
                f"{folder}: no round was inspected; "
                "run it with --set repair.schedule.on-suspicion=history"
            ]
        )
    return found
