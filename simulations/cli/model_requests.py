"""What a command line, and the scenario beside a model file, say becomes a request.

A part is a name or the mapping that a scenario has (`{name: resnet, depth: 10}`). For a file in a
results folder the scenario that lies beside it says what is not given.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from simulations.scenario.errors import MISSING, ConfigError
from simulations.scenario.load import load_scenario, read_model
from simulations.scenario.overrides import apply_override
from simulations.scenario.safe_yaml import UnsafeYamlError, read_yaml

Request = TypeVar("Request", bound=BaseModel)


def read_request(
    kind: type[Request],
    model_file: Path,
    given: Mapping[str, Any],
    settings: Iterable[str],
    *,
    trust: bool = False,
) -> Request:
    """Read a request from what the command line gives.

    Args:
        kind: InspectRequest, RepairRequest or EvaluateRequest.
        model_file: a scenario beside it gives the fields that are not in `given`.
        given: fields by their YAML names; None and empty mappings are not given.
        settings: "dotted.field=value".
        trust: whether the scenario beside the model may name anybody's code, which is then run.

    Raises:
        ConfigError: with all faults.
    """
    if not model_file.exists():
        # Before anything else is asked for: a path is misspelt soonest.
        raise ConfigError([f"{model_file}: no such file; name a model file"])
    content = _scenario_beside(model_file, trust=trust)
    content |= {name: value for name, value in given.items() if value not in (None, {})}
    known = [str(field.alias) for field in kind.model_fields.values()]
    content = {name: value for name, value in content.items() if name in known}
    for setting in settings:
        apply_override(content, setting, kind)
    try:
        return read_model(kind, content)
    except ConfigError as error:
        # What no scenario gives is an option of the command.
        own = {f"{key}: {MISSING}" for key in known}
        faults = [f"--{each}" if each in own else each for each in error.faults]
        raise ConfigError(faults) from error


def read_part(text: str | None) -> Any:
    """Read a part from a name, which becomes the mapping with nothing else, or from a mapping.

    Raises:
        ConfigError: if it is neither.
    """
    if text is None:
        return None
    try:
        read = read_yaml(text)
    except UnsafeYamlError as error:
        raise ConfigError([f"{text!r}: neither a name nor a mapping like {{name: x}}"]) from error
    return {"name": read} if isinstance(read, str) else read


def _scenario_beside(model_file: Path, *, trust: bool) -> dict[str, Any]:
    """Return the fields of the scenario in the file's folder, if there is one.

    Nobody named it: whoever made the model may have put it there.
    """
    path = model_file.parent / "scenario.yaml"
    if not path.is_file():
        return {}
    scenario = load_scenario(path, trust_imports=trust)
    data = scenario.data
    forms: dict[str, Any] = {
        "input-shape": data.input_shape,
        "classes": data.num_classes,
        "pixels": asdict(data.pixels),
    }
    forms["inspect-at"] = scenario.repair.inspect_at
    return scenario.model_dump(mode="json", by_alias=True) | forms
