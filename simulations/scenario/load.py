"""Reads a scenario from YAML, and tells every fault at once."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from simulations.scenario.errors import ConfigError, faults_of
from simulations.scenario.overrides import apply_override
from simulations.scenario.scenario import (
    Scenario,
)
from simulations.scenario.tables import TABLES


def load_scenario(path: Path, overrides: Iterable[str] = ()) -> Scenario:
    """Read a scenario from YAML and apply `--set` overrides.

    Args:
        path: the file.
        overrides: "dotted.field=value"; the value is YAML. Giving another `name` to a part drops
            the fields of the one it replaces.

    Raises:
        ConfigError: with all faults of the file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError([f"{path}: cannot be read ({reason}); name a scenario file"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not valid YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: must be a mapping, got {type(content).__name__}"])
    for override in overrides:
        apply_override(content, override)
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        faults = [*faults_of(error, Scenario, TABLES), *_misfits_of_the_rest(content, error)]
        raise ConfigError([f"{path}: {fault}" for fault in faults]) from error


def scenario_schema() -> dict[str, Any]:
    """Return the JSON Schema of a scenario file."""
    schema = Scenario.model_json_schema(by_alias=True, mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _misfits_of_the_rest(content: Mapping[str, Any], error: ValidationError) -> list[str]:
    """Return what is wrong between the parts that are right by themselves.

    Pydantic compares parts only when each is right. The wrong ones are taken out and compared as
    their defaults; where data or clients are wrong nothing can be compared with them.
    """
    wrong = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
    if not wrong or wrong & {"data", "clients"}:
        return []
    try:
        Scenario.model_validate({key: part for key, part in content.items() if key not in wrong})
    except ValidationError as rest:
        causes = [fault.get("ctx", {}).get("error") for fault in rest.errors()]
        misfits = [
            line for cause in causes if isinstance(cause, ConfigError) for line in cause.faults
        ]
        return [line for line in misfits if line.split(".")[0].split(":")[0] not in wrong]
    return []
