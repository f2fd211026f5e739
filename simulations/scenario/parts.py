"""Parts of a scenario: a plain dataclass is read from YAML, written back, and described to editors.

A `Reader` stands in `Annotated[Schedule, Part(Schedule)]`: the first is what type checkers see.
The dataclasses know nothing of pydantic, which reads single values here and nothing else.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import (
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import CoreSchema, core_schema

from simulations.scenario.errors import Fault, FaultsError, faults_of, unknown_key
from simulations.scenario.fields import REQUIRED, Setting, description, kebab, settings_of

CONFIG = ConfigDict(
    alias_generator=kebab,
    populate_by_name=True,
    extra="forbid",
    frozen=True,
    arbitrary_types_allowed=True,
    allow_inf_nan=False,
    use_attribute_docstrings=True,
    json_schema_extra=lambda schema, cls: schema.update(description=description(cls)),
)
"""How a scenario is read: kebab-case keys, unknown ones are errors, the result is frozen."""

Nested = Mapping[Any, "Reader"]
"""How fields of certain types are read, by the type: a `Trigger` by its name, for example."""


class Reader(ABC):
    """Reads what YAML or Python gives into a value, writes it back, and describes itself."""

    @abstractmethod
    def read(self, given: Any, *, trust_imports: bool) -> Any:
        """Return the value.

        Args:
            given: what YAML or Python gives; a value that is made already is taken as it is.
            trust_imports: whether names may be those of anybody's code, which is then imported.

        Raises:
            FaultsError: with all that is wrong.
        """

    @abstractmethod
    def write(self, value: Any) -> Any:
        """Return what reads into an equal value."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the JSON Schema of what can be read."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Let pydantic call us; the annotated type itself says nothing about fields."""
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(self.write),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Let pydantic ask us for the JSON Schema."""
        return self.describe()

    def _validate(self, given: Any, info: ValidationInfo) -> Any:
        return self.read(given, trust_imports=(info.context or {}).get("trust_imports", True))


class Value(Reader):
    """A number, a string, or whatever else pydantic reads by its type."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
        return TypeAdapter(self.hint, config=config)

    def read(self, given: Any, *, trust_imports: bool) -> Any:
        """Return the value, converted as pydantic does."""
        del trust_imports
        try:
            return self._adapter.validate_python(given)
        except ValidationError as error:
            raise FaultsError(faults_of(error)) from error

    def write(self, value: Any) -> Any:
        """Return it in JSON's types."""
        return self._adapter.dump_python(value, mode="json")

    def describe(self) -> dict[str, Any]:
        """Return what pydantic says of the type."""
        return self._adapter.json_schema()


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


class OrNone(Reader):
    """A part, or null."""

    def __init__(self, part: Reader) -> None:
        self.part = part

    def read(self, given: Any, *, trust_imports: bool) -> Any:
        """Return the part, or None."""
        return None if given is None else self.part.read(given, trust_imports=trust_imports)

    def write(self, value: Any) -> Any:
        """Return the mapping, or None."""
        return None if value is None else self.part.write(value)

    def describe(self) -> dict[str, Any]:
        """Return both schemas."""
        return {"anyOf": [self.part.describe(), {"type": "null"}]}


class Several(Reader):
    """A list of parts, which becomes a tuple."""

    def __init__(self, part: Reader, *, at_least: int = 0) -> None:
        self.part = part
        self.at_least = at_least

    def read(self, given: Any, *, trust_imports: bool) -> tuple[Any, ...]:
        """Return the parts."""
        if not isinstance(given, (list, tuple)):
            raise FaultsError([Fault("", f"must be a list, got {given!r}")])
        if len(given) < self.at_least:
            raise FaultsError(
                [Fault("", f"must hold at least {self.at_least} item, got {given!r}")]
            )
        faults: list[Fault] = []
        parts = []
        for index, each in enumerate(given):
            try:
                parts.append(self.part.read(each, trust_imports=trust_imports))
            except FaultsError as found:
                faults += (fault.under(str(index)) for fault in found.faults)
        if faults:
            raise FaultsError(faults)
        return tuple(parts)

    def write(self, value: Any) -> list[Any]:
        """Return the list of what each reads into."""
        return [self.part.write(each) for each in value]

    def describe(self) -> dict[str, Any]:
        """Return the schema of the list."""
        return {"type": "array", "items": self.part.describe(), "minItems": self.at_least}


class OneOrSeveral(Reader):
    """One part, or a list of them; a single one is written back as such.

    Args:
        one: reads a single part.
        join: makes one part of a list of them, and has them in its field `steps`; without it the
            value is a tuple, also of a single one.
        or_none: whether the list may be empty.
    """

    def __init__(self, one: Reader, join: Any = None, *, or_none: bool = False) -> None:
        self.one = one
        self.several = Several(one, at_least=0 if or_none else 1)
        self.join = join

    def read(self, given: Any, *, trust_imports: bool) -> Any:
        """Return the part, or the parts."""
        if self.join is not None and isinstance(given, self.join):
            return given
        if not isinstance(given, (list, tuple)):
            part = self.one.read(given, trust_imports=trust_imports)
            return part if self.join is not None else (part,)
        parts = self.several.read(given, trust_imports=trust_imports)
        return parts if self.join is None else made(lambda: self.join(steps=parts))

    def write(self, value: Any) -> Any:
        """Return a mapping for one, a list for several."""
        if self.join is not None:
            is_joined = isinstance(value, self.join)
            return self.several.write(value.steps) if is_joined else self.one.write(value)
        return self.several.write(value) if len(value) != 1 else self.one.write(value[0])

    def describe(self) -> dict[str, Any]:
        """Return both schemas."""
        return {"oneOf": [self.one.describe(), self.several.describe()]}


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


def made(make: Callable[[], Any]) -> Any:
    """Return what a dataclass makes of its fields; what it refuses is a fault."""
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise FaultsError([Fault("", str(error))]) from error
