"""Parts of a scenario: a plain dataclass is read from YAML, written back, and described to editors.

The dataclasses know nothing of pydantic, which reads single values (`readers.py`) and nothing else.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from simulations.scenario.errors import Fault, FaultsError, unknown_key
from simulations.scenario.fields import REQUIRED, Setting, description, kebab, settings_of
from simulations.scenario.readers import OrNone, Reader, Several, Value, made

Nested = Mapping[Any, Reader]
"""How fields of certain types are read, by the type: a `Trigger` by its name, for example."""


class Part(Reader):
    """A dataclass, read from a mapping of its fields.

    Args:
        cls: a frozen dataclass; its ValueErrors become faults.
        nested: how fields of certain types are read.
    """

    def __init__(self, cls: type, nested: Nested | None = None) -> None:
        self.cls = cls
        self.nested = nested or {}

    @cached_property
    def settings(self) -> dict[str, tuple[Setting, Reader]]:
        """The fields by their keys, each with its reader."""
        return {
            setting.key: (setting, reader_of(setting.hint, self.nested))
            for setting in settings_of(self.cls)
        }

    def read(self, given: Any, *, trust_imports: bool) -> Any:
        """Return the instance."""
        if isinstance(given, self.cls):
            return given
        if not isinstance(given, Mapping):
            raise FaultsError([Fault("", f"must be a mapping, got {given!r}")])
        return self.build(given, trust_imports=trust_imports)

    def build(
        self,
        given: Mapping[Any, Any],
        *,
        trust_imports: bool,
        others: tuple[str, ...] = (),
        base: Any = None,
    ) -> Any:
        """Return the instance that a mapping of fields gives.

        Args:
            given: fields by their keys, or by Python's names.
            trust_imports: as of `read`.
            others: keys that are known beside the fields; they are named where one is misspelt.
            base: an instance, such as a preset, whose values hold where the mapping gives none,
                inside nested mappings, too; None: the defaults.
        """
        faults: list[Fault] = []
        usual = self._usual(base)
        values = {} if base is None else dict(usual)
        for key, value in given.items():
            place = kebab(str(key))
            if place not in self.settings:
                faults.append(unknown_key(place, [*others, *self.settings]))
                continue
            setting, reader = self.settings[place]
            try:
                values[setting.name] = _over(
                    usual.get(setting.name), reader, value, trust_imports=trust_imports
                )
            except FaultsError as found:
                values[setting.name] = None
                faults += (fault.under(place) for fault in found.faults)
        faults += (
            Fault(setting.key, "is missing; add it")
            for setting, _ in self.settings.values()
            if setting.default is REQUIRED and setting.name not in values
        )
        if faults:
            raise FaultsError(faults)
        return made(lambda: self.cls(**values))

    def _usual(self, base: Any) -> dict[str, Any]:
        """Return what fields are by Python's names if they are not given."""
        settings = [setting for setting, _ in self.settings.values()]
        if base is not None:
            return {setting.name: getattr(base, setting.name) for setting in settings}
        known = (setting for setting in settings if setting.default is not REQUIRED)
        return {setting.name: setting.default for setting in known}

    def write(self, value: Any) -> dict[str, Any]:
        """Return every field by its key."""
        return {
            key: reader.write(getattr(value, setting.name))
            for key, (setting, reader) in self.settings.items()
        }

    def describe(self) -> dict[str, Any]:
        """Return the schema of the fields."""
        properties = {}
        for key, (setting, reader) in self.settings.items():
            properties[key] = {**reader.describe(), "description": setting.sentence}
            if setting.default is not REQUIRED:
                properties[key]["default"] = reader.write(setting.default)
        return {
            "type": "object",
            "description": description(self.cls),
            "properties": properties,
            "required": [
                key
                for key, (setting, _) in self.settings.items()
                if setting.default is REQUIRED
            ],
            "additionalProperties": False,
        }  # fmt: skip


def _over(usual: Any, reader: Reader, given: Any, *, trust_imports: bool) -> Any:
    """Read a field; of a nested part what is not given stays as it usually is in this place."""
    part = reader.part if isinstance(reader, OrNone) else reader
    if isinstance(part, Part) and isinstance(given, Mapping) and isinstance(usual, part.cls):
        return part.build(given, trust_imports=trust_imports, base=usual)
    return reader.read(given, trust_imports=trust_imports)


def reader_of(hint: Any, nested: Nested) -> Reader:
    """Return how a field of this type is read."""
    if isinstance(hint, type) and hint in nested:
        return nested[hint]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return Part(hint, nested)
    arms = get_args(hint)
    if get_origin(hint) is tuple and len(arms) == 2 and arms[1] is Ellipsis:
        each = reader_of(arms[0], nested)
        return Value(hint) if isinstance(each, Value) else Several(each)
    if get_origin(hint) in (Union, UnionType) and len(arms) == 2 and NoneType in arms:
        (other,) = (arm for arm in arms if arm is not NoneType)
        part = reader_of(other, nested)
        return Value(hint) if isinstance(part, Value) else OrNone(part)
    return Value(hint)
