"""Readers: how a value of a scenario is read from YAML, written back, and described to editors.

A `Reader` stands in `Annotated[Schedule, Part(Schedule)]`: the first is what type checkers see.
Here are those of single values, and of one, several or none of what another reader reads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

from pydantic import (
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import CoreSchema, core_schema

from simulations.scenario.errors import Fault, FaultsError, faults_of
from simulations.scenario.fields import description, kebab

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


def made(make: Callable[[], Any]) -> Any:
    """Return what a dataclass makes of its fields; what it refuses is a fault."""
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise FaultsError([Fault("", str(error))]) from error
