"""Reads a scenario from YAML, and says every fault at once."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fl_defense.log import logger
from simulations import shipped
from simulations.scenario.errors import ConfigError, faults_of, nearest
from simulations.scenario.overrides import apply_override
from simulations.scenario.safe_yaml import UnsafeYamlError, read_yaml_file
from simulations.scenario.scenario import Scenario

Model = TypeVar("Model", bound=BaseModel)


def find_scenario(given: str) -> Path:
    """Return the file that a path names, or else the scenario that ships under that name.

    Raises:
        ConfigError: if there is neither.
    """
    return _find(given, shipped.scenarios(), "scenario")


def find_plan(given: str) -> Path:
    """Return the file that a path names, or else the plan that ships under that name.

    Raises:
        ConfigError: if there is neither.
    """
    return _find(given, shipped.plans(), "plan")


def _find(given: str, by_name: Mapping[str, Path], kind: str) -> Path:
    if Path(given).is_file():
        return Path(given)
    name = given.replace("-", "_")
    if name in by_name:
        return by_name[name]
    raise ConfigError(
        [
            f"{given}: is neither a file nor a {kind} that ships{nearest(name, by_name)}; "
            f"`fl-defense list {kind}s` names them"
        ]
    )


def load_scenario(
    path: Path,
    overrides: Iterable[str] = (),
    *,
    trust_imports: bool = True,
    tell: Callable[[str], object] = logger.warning,
) -> Scenario:
    """Read a scenario from YAML and apply `--set` overrides.

    Args:
        path: the file.
        overrides: "dotted.field=value"; the value is YAML. Another `name` of a part keeps the
            fields that both parts have from a common base, and drops the others.
        trust_imports: whether parts may be anybody's, `name: package.module:Class`: importing them
            runs their code. False for a file that the user has not named.
        tell: is given a line for each override that drops fields.

    Raises:
        ConfigError: with all faults of the file.

    Example:
        >>> Path("mine.yaml").write_text("{name: mine, rounds: 3}")
        23
        >>> load_scenario(Path("mine.yaml"), ["seed=4"]).seed
        4
    """
    try:
        content = read_yaml_file(path)
    except UnsafeYamlError as error:
        raise ConfigError([f"{path}: {error}"]) from error
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: must be a mapping, got {type(content).__name__}"])
    for override in overrides:
        apply_override(content, override, Scenario, trust_imports=trust_imports, tell=tell)
    try:
        return read_model(Scenario, content, trust_imports=trust_imports)
    except ConfigError as error:
        raise ConfigError([f"{path}: {fault}" for fault in error.faults]) from error


def read_model(
    model: type[Model], content: Mapping[str, Any], *, trust_imports: bool = True
) -> Model:
    """Read what YAML or the command line gives into a model such as `Scenario`.

    Raises:
        ConfigError: with all faults.
    """
    try:
        return model.model_validate(content, context={"trust_imports": trust_imports})
    except ValidationError as error:
        raise ConfigError([str(fault) for fault in faults_of(error, model)]) from error


def scenario_schema() -> dict[str, Any]:
    """Return the JSON Schema of a scenario file.

    Example:
        >>> scenario_schema()["properties"]["rounds"]["default"]
        10
    """
    schema = Scenario.model_json_schema(by_alias=True, mode="validation")
    defaults = Scenario(name="NAME").model_dump(mode="json", by_alias=True)
    for key, described in schema["properties"].items():
        if "default" in described:
            described["default"] = defaults[key]
    shared: dict[str, Any] = schema.pop("$defs")
    schema = _share(schema, shared)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": shared
    }  # fmt: skip


def _share(node: Any, shared: dict[str, Any]) -> Any:
    """Return a schema in which every choice by name is a reference, and put the choice aside."""
    if isinstance(node, list):
        return [_share(each, shared) for each in node]
    if not isinstance(node, dict):
        return node
    inner = {key: _share(value, shared) for key, value in node.items()}
    if not {"title", "oneOf"} <= inner.keys():
        return inner
    title = inner["title"]
    shared[title] = {key: inner.pop(key) for key in ("title", "oneOf")}
    return {"$ref": f"#/$defs/{title}", **inner}
