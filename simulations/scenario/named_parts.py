"""Parts that are chosen by name: from a table, or anybody's by "package.module:Class".

`NamedPart(SANITIZERS, Sanitizer)` reads `{name: dhbe, iterations: 40}` into a `DHBE`, and
`{name: mine.repair:Mine, strength: 2}` into a `Mine`. A line in the table is all that a new entry
needs; a class from elsewhere needs nothing but to keep the protocol.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Protocol, Self, runtime_checkable

from simulations.scenario.errors import Fault, FaultsError, nearest
from simulations.scenario.fields import REQUIRED, Setting, first_sentence, kebab
from simulations.scenario.imports import import_object, misfit, place_of
from simulations.scenario.parts import Nested, Part
from simulations.scenario.readers import Reader, made

ANYBODYS = "package.module:Class"
"""How a name with a colon is called in messages."""


@runtime_checkable
class HasPresets(Protocol):
    """An entry that has named settings; a scenario chooses them by the key `preset`."""

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """Return them by name."""


def presets_of(cls: type) -> Mapping[str, Any]:
    """Return the named presets of an entry: name -> instance; empty if it has none."""
    return cls.presets() if issubclass(cls, HasPresets) else {}


class NamedPart(Reader):
    """A part that is read from `{name: ..., fields...}`.

    Args:
        table: name -> frozen dataclass. The fields of a preset, which the key `preset` names, hold
            where the mapping does not give them.
        protocol: what every entry must keep; a class from elsewhere is checked for it.
        nested: how fields of certain types are read.
        by_name_alone: whether the name alone may stand for a mapping that holds nothing else.
        factory: dataclass with the fields `path` and `arguments` for a name with a colon that is
            no entry but a class or function that makes what is needed.
    """

    def __init__(
        self,
        table: Mapping[str, type],
        protocol: type,
        *,
        nested: Nested | None = None,
        by_name_alone: bool = False,
        factory: type | None = None,
    ) -> None:
        self.table = table
        self.protocol = protocol
        self.by_name_alone = by_name_alone
        self.factory = factory
        self.nested = nested or {}
        self._parts: dict[type, Part] = {}

    def read(self, given: Any, *, trust_imports: bool) -> Any:
        """Return an instance of the class that the name stands for."""
        if self.by_name_alone and isinstance(given, str):
            given = {"name": given}
        if not isinstance(given, Mapping):
            return self._made_already(given)
        name = given.get("name")
        if not isinstance(name, str):
            raise FaultsError([Fault("", f"must be a mapping with a name, got {given!r}")])
        fields = {key: value for key, value in given.items() if key != "name"}
        if ":" in name:
            return self._anybodys(name, fields, trust_imports)
        if name not in self.table:
            known = ", ".join([*self.table, ANYBODYS])
            message = f"{name!r} is not one of {known}{nearest(name, self.table)}"
            raise FaultsError([Fault("", message)])
        return self._entry(self.table[name], fields, trust_imports)

    def write(self, value: Any) -> dict[str, Any]:
        """Return the name and the fields; what is in no table is named by where it is defined."""
        cls = type(value)
        fields = self.part_of(cls).write(value)
        if cls is self.factory:
            return {"name": fields.pop("path"), **fields}
        names = {entry: name for name, entry in self.table.items()}
        return {"name": names.get(cls) or place_of(cls), **fields}

    def describe(self) -> dict[str, Any]:
        """Return the schemas of the entries, and an open one for anybody's."""
        entries = []
        for name, cls in self.table.items():
            entry = self.part_of(cls).describe()
            keys: dict[str, Any] = {"name": {"const": name, "description": first_sentence(cls)}}
            if presets_of(cls):
                keys["preset"] = {"enum": list(presets_of(cls))}
            properties = keys | entry["properties"]
            entries.append(
                entry | {"properties": properties, "required": ["name", *entry["required"]]}
            )
        anybodys = {
            "type": "object",
            "description": f"Anybody's: {ANYBODYS}.",
            "properties": {"name": {"type": "string", "pattern": "^[^:]+:[^:]+$"}},
            "required": ["name"],
        }
        choices = [*entries, anybodys]
        if self.by_name_alone:
            names = [{"const": name} for name in self.table]
            choices.append({"anyOf": [*names, {"type": "string", "pattern": "^[^:]+:[^:]+$"}]})
        return {"title": self.protocol.__name__, "oneOf": choices}

    def class_of(self, name: Any, *, trust_imports: bool) -> type | None:
        """Return the dataclass that a name stands for, or None; what is wrong is said by `read`."""
        if not isinstance(name, str):
            return None
        if ":" not in name or not trust_imports:
            return self.table.get(name)
        try:
            found = import_object(name)
        except ValueError:
            return None
        return found if isinstance(found, type) and is_dataclass(found) else None

    def kept_by(
        self, name: Any, given: Mapping[str, Any], *, trust_imports: bool
    ) -> tuple[dict[str, Any], list[str]]:
        """Tell what stays of an entry's fields when another takes its place.

        A field stays if both classes have it from the same base, for then it means the same. Fields
        that happen to have the same name do not: a learning rate of one defense is none of another.

        Args:
            name: of the entry that comes.
            given: the name and the fields of the one that goes.
            trust_imports: as of `read`.

        Returns:
            The fields that stay, and the keys of those that do not and were not at their defaults;
            none of the latter if the new entry has no settings at all, as `none`.
        """
        old = self.class_of(given.get("name"), trust_imports=trust_imports)
        new = self.class_of(name, trust_imports=trust_imports)
        fields = {kebab(str(key)): value for key, value in given.items() if key != "name"}
        if old is None or new is None:
            return {}, list(fields) if given.get("name") else []
        kept = {
            key: value
            for key, value in fields.items()
            if (home := _home(old, key)) is not None and home is _home(new, key)
        }
        settings = self.part_of(old).settings
        lost = [
            key
            for key, value in fields.items()
            if key not in kept and not (key in settings and _is_default(settings[key], value))
        ]
        return kept, lost if self.part_of(new).settings else []

    def part_of(self, cls: type) -> Part:
        """Return what reads the fields of a class."""
        return self._parts.setdefault(cls, Part(cls, self.nested))

    def _made_already(self, given: Any) -> Any:
        """Return an instance that Python gives, if it keeps the protocol."""
        known = (*self.table.values(), *([self.factory] if self.factory else ()))
        if type(given) not in known and (
            isinstance(given, str) or misfit(type(given), self.protocol)
        ):
            raise FaultsError([Fault("", f"must be a mapping with a name, got {given!r}")])
        return given

    def _anybodys(self, path: str, fields: Mapping[str, Any], trust_imports: bool) -> Any:
        if not trust_imports:
            message = (
                f"{path!r} is code to import, which is not done for a file that nobody named; "
                "name the part yourself or say --trust if you trust its author"
            )
            raise FaultsError([Fault("", message)])
        found = made(lambda: import_object(path))
        reason = misfit(found, self.protocol)
        if reason is None:
            return self._entry(found, fields, trust_imports)
        if self.factory is not None and not hasattr(found, "__dataclass_fields__"):
            return self._entry(self.factory, {"path": path, **fields}, trust_imports)
        raise FaultsError([Fault("", f"{path!r} {reason}")])

    def _entry(self, cls: type, given: Mapping[str, Any], trust_imports: bool) -> Any:
        presets = presets_of(cls)
        part = self.part_of(cls)
        if "preset" not in given:
            others = ("name", "preset") if presets else ("name",)
            return part.build(given, trust_imports=trust_imports, others=others)
        preset = given["preset"]
        if preset not in presets:
            known = ", ".join(presets) or "(it has none)"
            raise FaultsError([Fault("", f"preset: {preset!r} is not one of {known}")])
        return part.build(
            {key: value for key, value in given.items() if key != "preset"},
            trust_imports=trust_imports,
            others=("name", "preset"),
            base=presets[preset],
        )


def _home(cls: type, key: str) -> type | None:
    """Return the base that brings a field, or None if there is no such field."""
    for base in reversed(cls.__mro__):
        if key in map(kebab, vars(base).get("__annotations__", ())):
            return base
    return None


def _is_default(field: tuple[Setting, Reader], value: Any) -> bool:
    setting, reader = field
    return setting.default is not REQUIRED and bool(reader.write(setting.default) == value)
