"""Finished runs on the disk, and in which settings they differ."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulations.measurement.reading import as_written, read_json
from simulations.scenario import ConfigError
from simulations.scenario.safe_yaml import UnsafeYamlError, read_yaml_file

NOT_A_SETTING = ("seed", "name", "engine", "device", "metrics", "tracking")
"""Fields that do not say what was tried: runs that differ in them alone are one group."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What is compared of a run."""

    folder: Path
    seed: int
    settings: Mapping[str, Any]
    """Every field of the scenario by its dotted name, but those that are no setting."""
    summary: Mapping[str, Any]


def find_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Return the finished runs in folders, and in all folders below them.

    Raises:
        ConfigError: if a folder holds none, or one cannot be read.
    """
    runs: dict[Path, FinishedRun] = {}
    for folder in folders:
        found = sorted(folder.rglob("summary.json"))
        if not found:
            raise ConfigError([f"{folder}: holds no finished run; name folders that do"])
        for path in found:
            runs[path.parent.resolve()] = read_run(path.parent)
    return list(runs.values())


def folders_of_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of runs, finished or not, in folders and in all below them.

    Raises:
        ConfigError: if a folder holds none.
    """
    runs: dict[Path, None] = {}
    for folder in folders:
        found = sorted(path.parent for path in folder.rglob("rounds.jsonl"))
        if not found:
            raise ConfigError([f"{folder}: holds no readable run; name a folder that does"])
        runs |= dict.fromkeys(found)
    return list(runs)


def read_run(folder: Path) -> FinishedRun:
    """Read one finished run.

    Raises:
        ConfigError: if it is not finished or cannot be read.
    """
    try:
        scenario = read_yaml_file(folder / "scenario.yaml")
    except UnsafeYamlError as error:
        raise ConfigError([f"{folder}: holds no finished run ({error})"]) from error
    summary = read_json(folder / "summary.json")
    with as_written(folder):
        return FinishedRun(
            folder=folder,
            seed=int(scenario["seed"]),
            settings={
                field: value
                for field, value in flat(scenario)
                if field.split(".")[0] not in NOT_A_SETTING
            },
            summary=summary,
        )


def differing_fields(runs: Sequence[FinishedRun]) -> list[str]:
    """Return the fields in which runs differ, in the order of the scenario.

    A field that follows from another part's name is left out: whoever says `attack.name` need not
    say that without an attack there is no `attack.boost`.
    """
    fields = dict.fromkeys(field for run in runs for field in run.settings)
    differing = [field for field in fields if len({_key(run, field) for run in runs}) > 1]
    return [field for field in differing if not _follows(field, differing, runs)]


def _follows(field: str, differing: Sequence[str], runs: Sequence[FinishedRun]) -> bool:
    parts = field.split(".")
    for length in range(1, len(parts)):
        name = ".".join([*parts[:length], "name"])
        if name == field or name not in differing:
            continue
        by_name: dict[str, set[str]] = {}
        for run in runs:
            by_name.setdefault(_key(run, name), set()).add(_key(run, field))
        if all(len(values) == 1 for values in by_name.values()):
            return True
    return False


def _key(run: FinishedRun, field: str) -> str:
    return json.dumps(run.settings.get(field), sort_keys=True)


def flat(part: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field with its dotted name; parts in a list are counted.

    Example:
        >>> dict(flat({"seed": 1, "defense": [{"name": "clp"}, {"name": "dhbe"}]}))
        {'seed': 1, 'defense.0.name': 'clp', 'defense.1.name': 'dhbe'}
    """
    for key, value in part.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
            numbered = {str(index): each for index, each in enumerate(value)}
            yield from flat(numbered, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
