"""`--set`, which changes what was read from a scenario file."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from fl_defense.log import logger
from simulations.scenario.errors import ConfigError
from simulations.scenario.fields import kebab
from simulations.scenario.named_parts import NamedPart
from simulations.scenario.parts import Part
from simulations.scenario.readers import OneOrSeveral, OrNone, Reader, Several
from simulations.scenario.safe_yaml import UnsafeYamlError, read_yaml


def apply_override(
    content: dict[str, Any],
    override: str,
    model: type[BaseModel],
    *,
    trust_imports: bool = True,
    tell: Callable[[str], object] = logger.warning,
) -> None:
    """Set one field of what was read from YAML.

    Args:
        content: what was read; changed in place.
        override: "dotted.field=value"; the value is YAML, a number counts into a list. Another
            `name` keeps the fields that both parts have from a common base, such as who is
            malicious and when, and drops the others.
        model: what the content will be read into, such as `Scenario`.
        trust_imports: whether parts may be anybody's, whose code is then imported.
        tell: is given a line that names the fields dropped, if any had been set.

    Raises:
        ConfigError: if it is not of that form.
    """
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError([f"--set: must be dotted.field=value, got {override!r}; e.g. seed=3"])
    try:
        value = read_yaml(text)
    except UnsafeYamlError as error:
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
        part = _part_at(keys[:-1], model, content, trust_imports=trust_imports)
        kept: dict[str, Any] = {}
        lost = [kebab(str(key)) for key in inner if key != "name"]
        if isinstance(part, NamedPart):
            kept, lost = part.kept_by(value, inner, trust_imports=trust_imports)
        if lost:
            tell(
                f"{dotted}={value}: {', '.join(lost)} of {inner['name']} dropped; "
                f"set what {value} should have after its name"
            )
        inner.clear()
        inner.update(kept)
    inner[keys[-1]] = value


def _part_at(
    keys: Sequence[str],
    model: type[BaseModel],
    content: Mapping[str, Any],
    *,
    trust_imports: bool,
) -> Reader | None:
    """Return how the part at a place is read, or None where there is no part."""
    where: type[BaseModel] | Reader | None = model
    inner: Any = content
    for key in keys:
        if isinstance(inner, list):
            inner = inner[int(key)]
            continue
        if isinstance(where, NamedPart):
            found = where.class_of(inner.get("name"), trust_imports=trust_imports)
            where = None if found is None else where.part_of(found)
        if isinstance(where, Part):
            where = where.settings[kebab(key)][1] if kebab(key) in where.settings else None
        elif where is not None and not isinstance(where, Reader):
            where = _field(where, kebab(key))
        else:
            return None
        while isinstance(where, OrNone | OneOrSeveral | Several):
            where = where.one if isinstance(where, OneOrSeveral) else where.part
        inner = inner[key]
    return where if isinstance(where, Reader) else None


def _field(model: type[BaseModel], key: str) -> type[BaseModel] | Reader | None:
    for name, field in model.model_fields.items():
        if kebab(field.alias or name) == key:
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                return inner
            return next((each for each in field.metadata if isinstance(each, Reader)), None)
    return None


def _has_index(child: Any, key: str) -> bool:
    """Tell whether `child` is a list with an element at the index that `key` spells."""
    return isinstance(child, list) and key.isdigit() and int(key) < len(child)
