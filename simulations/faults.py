"""What can be wrong with what a user wrote, as one line each; and `--set`, which changes it."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from simulations.choices import LIST, ONE, Table, kebab, nearest


class ConfigError(ValueError):
    """A scenario is wrong; `faults` holds one line each: where: what, got; what to do."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def faults_of(
    error: ValidationError, model: type[BaseModel], tables: Mapping[str, Table]
) -> Iterator[str]:
    """Write each of pydantic's errors as one line: where: what, got ...; what to do.

    Args:
        error: what pydantic raised.
        model: what was to be read.
        tables: the table behind each field that is a choice by name.
    """
    for fault in error.errors():
        cause = fault.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            yield from cause.faults
            continue
        where = ".".join(kebab(str(step)) for step in _without_tags(fault["loc"], tables))
        if fault["type"] == "extra_forbidden":
            known = _known_keys(fault["loc"], model)
            yield f"{where}: unknown key{nearest(str(fault['loc'][-1]), known)}" + (
                f"; known: {', '.join(known)}" if known else ""
            )
        elif fault["type"] == "missing":
            yield f"{where}: is missing; add it"
        elif fault["type"] == "value_error":
            yield f"{where}: {cause}"
        elif fault["type"] in ("unknown_name", "unknown_preset", "no_name"):
            yield f"{where}: {fault['msg']}"
        else:
            yield f"{where}: {_lower_first(fault['msg'])}, got {fault['input']!r}"


def _without_tags(loc: tuple[int | str, ...], tables: Mapping[str, Table]) -> list[int | str]:
    """Drop from a location the names that a choice was decided by."""
    steps: list[int | str] = []
    table: Table | None = None
    for step in loc:
        if step in (ONE, LIST):
            continue
        if table is not None and (step in table or ":" in str(step)):
            table = None
            continue
        steps.append(step)
        # An index into a list of choices is followed by a name from the same table.
        table = table if isinstance(step, int) else tables.get(step)
    return steps


def _known_keys(loc: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Return the keys that are known where an unknown one was found."""
    schema: Mapping[str, Any] = model.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})
    current: Mapping[str, Any] = schema
    for step in loc[:-1]:
        current = _step_into(current, str(step), definitions)
    return list(_resolve(current, definitions).get("properties", {}))


def _step_into(
    schema: Mapping[str, Any], step: str, definitions: Mapping[str, Any]
) -> Mapping[str, Any]:
    resolved = _resolve(schema, definitions)
    if step in (ONE, LIST):
        options: list[Mapping[str, Any]] = resolved["oneOf"]
        return next(option for option in options if ("items" in option) == (step == LIST))
    if step.isdigit() and "items" in resolved:
        return resolved["items"]  # type: ignore[no-any-return]
    if kebab(step) in resolved.get("properties", {}):
        return resolved["properties"][kebab(step)]  # type: ignore[no-any-return]
    for option in resolved.get("oneOf", ()):
        entry = _resolve(option, definitions)
        if entry.get("properties", {}).get("name", {}).get("const") == step:
            return entry
    return resolved


def _resolve(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return definitions[reference.rsplit("/", 1)[1]] if reference else schema


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set one field of what was read from YAML.

    Args:
        content: what was read; changed in place.
        override: "dotted.field=value"; the value is YAML, a number counts into a list. Another
            `name` drops the fields of the part that it replaces.

    Raises:
        ConfigError: if it is not of that form.
    """
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError([f"--set: must be dotted.field=value, got {override!r}; e.g. seed=3"])
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError([f"--set {dotted}: not a YAML value: {text!r}"]) from error
    inner: Any = content
    for depth, (key, following) in enumerate(pairwise(keys), start=1):
        slot: Any = int(key) if isinstance(inner, list) else key
        child = inner[slot] if isinstance(inner, list) else inner.get(slot)
        if not isinstance(child, dict) and not _has_index(child, following):
            # A name makes one part of the list; any other field would quietly drop all of it.
            if child and isinstance(child, list) and keys[depth:] != ["name"]:
                place, last = ".".join(keys[:depth]), len(child) - 1
                raise ConfigError(
                    [f"--set {dotted}: {place} is a list, got {following!r}; name an index in "
                     f"0..{last}, e.g. {place}.0"]
                )  # fmt: skip
            child = inner[slot] = {}
        inner = child
    if isinstance(inner, list):
        inner[int(keys[-1])] = value
        return
    if keys[-1] == "name" and len(keys) > 1 and inner.get("name") != value:
        inner.clear()
    inner[keys[-1]] = value


def _has_index(child: Any, key: str) -> bool:
    """Tell whether `child` is a list with an element at the index that `key` spells."""
    return isinstance(child, list) and key.isdigit() and int(key) < len(child)
