"""What can be wrong with what a user wrote, as one line each."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from simulations.scenario.named_parts import LIST, ONE, Table, kebab, nearest


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
