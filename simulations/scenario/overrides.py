"""`--set`, which changes what was read from a scenario file."""

from itertools import pairwise
from typing import Any

from simulations.scenario.errors import ConfigError
from simulations.scenario.safe_yaml import UnsafeYamlError, read_yaml


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
        inner.clear()
    inner[keys[-1]] = value


def _has_index(child: Any, key: str) -> bool:
    """Tell whether `child` is a list with an element at the index that `key` spells."""
    return isinstance(child, list) and key.isdigit() and int(key) < len(child)
