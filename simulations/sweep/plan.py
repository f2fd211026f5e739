"""A plan: a scenario and a grid of settings, every combination of which is one run."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field

from fl_defense.log import logger
from simulations.scenario import ConfigError
from simulations.scenario.load import find_scenario, load_scenario, read_model
from simulations.scenario.readers import CONFIG
from simulations.scenario.safe_yaml import UnsafeYamlError, read_yaml_file
from simulations.scenario.scenario import Scenario

MAX_RUNS = 10_000
"""Of one plan."""
OneOrMore = Annotated[list[Any], Field(min_length=1)]


class Plan(BaseModel):
    """What a plan file holds."""

    model_config = CONFIG
    scenario: str
    """A scenario file, relative to the plan's folder, or the name of one that ships."""
    settings: dict[str, Any] = Field(default={}, alias="set")
    """Dotted fields with the values that they have in every run."""
    grid: dict[str, OneOrMore] = Field(min_length=1)
    """Dotted fields with the values to try; every combination is a run."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One combination of a plan."""

    chosen: Mapping[str, Any]
    """The grid's fields with their values."""
    scenario: Scenario

    @property
    def key(self) -> str:
        """Names the run's folder: a hash of every field of the scenario that its results tell."""
        told = self.scenario.model_dump(mode="json", by_alias=True, exclude={"tracking"})
        text = yaml.safe_dump(told, sort_keys=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """The chosen values in words."""
        return ", ".join(f"{field}={_spelled(value)}" for field, value in self.chosen.items())


def read_plan(path: Path) -> list[PlannedRun]:
    """Read a plan and every run's scenario.

    Runs are computed in one process each, unless the plan names another engine.

    Raises:
        ConfigError: with the faults of the plan, or of every run that cannot be.
    """
    plan = _read(path)
    if (count := prod(map(len, plan.grid.values()))) > MAX_RUNS:
        raise ConfigError([f"{path}: grid: makes {count} runs, more than {MAX_RUNS}; try fewer"])
    beside = path.parent / plan.scenario
    base = beside if beside.is_file() else find_scenario(plan.scenario)
    runs: dict[str, PlannedRun] = {}
    faults: dict[str, None] = {}
    told: dict[str, None] = {}
    for values in product(*plan.grid.values()):
        chosen = dict(zip(plan.grid, values, strict=True))
        fields = {"engine.name": "in-process", **plan.settings, **chosen}
        try:
            scenario = load_scenario(
                base,
                [
                    f"{field}={_spelled(fields[field])}"
                    for field in sorted(fields, key=_names_first)
                ],
                tell=lambda line: told.setdefault(line),
            )
        except ConfigError as error:
            faults |= dict.fromkeys(error.faults)
            continue
        run = PlannedRun(chosen=chosen, scenario=scenario)
        if run.key in runs:
            faults[f"{path}: grid: {run.label} and {runs[run.key].label} are one run"] = None
        runs[run.key] = run
    if faults:
        raise ConfigError(list(faults))
    for line in told:
        logger.warning(line)
    return list(runs.values())


def _names_first(field: str) -> tuple[bool, int]:
    """Sort names before what is set in the parts that they choose, outer ones first."""
    is_name = field.endswith(".name")
    return not is_name, field.count(".") if is_name else 0


def _read(path: Path) -> Plan:
    try:
        content = read_yaml_file(path)
    except UnsafeYamlError as error:
        raise ConfigError([f"{path}: {error}; name a plan file"]) from error
    if not isinstance(content, dict):
        raise ConfigError(
            [f"{path}: must be a mapping with scenario and grid, got {type(content).__name__}"]
        )
    try:
        return read_model(Plan, content)
    except ConfigError as error:
        raise ConfigError([f"{path}: {fault}" for fault in error.faults]) from error


def _spelled(value: Any) -> str:
    """Write a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()
