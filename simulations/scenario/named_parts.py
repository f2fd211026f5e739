"""Parts of a scenario: plain dataclasses, and choices among them by name.

`part(Schedule)` reads a mapping into a `Schedule`; `choice(SANITIZERS)` reads
`{name: dhbe, iterations: 40}` into a `DHBE`. Both come with a JSON schema made from the dataclass:
its types, defaults and the sentence under each field. A line added to a table is all that a new
entry needs; the dataclasses themselves know nothing of pydantic.
"""

import ast
import dataclasses
import difflib
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Union, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    Tag,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

Table = Mapping[str, Any]
"""Name -> dataclass."""


ONE, LIST = "one", "list"
"""Where a single part and a list of parts fork; they stand in pydantic's error locations."""
FACTORY = "package.module:factory"
"""How a name with a colon is called in messages and in the schema."""


def kebab(name: str) -> str:
    """Spell a field's name as YAML does: poison_rate -> poison-rate."""
    return name.replace("_", "-")


CONFIG = ConfigDict(
    alias_generator=kebab,
    populate_by_name=True,
    extra="forbid",
    frozen=True,
    arbitrary_types_allowed=True,
    use_attribute_docstrings=True,
)
"""How a scenario is read: kebab-case keys, unknown ones are errors, the result is frozen."""


def part(cls: type, **choices: "Choice | OneOrSeveral") -> "Choice":
    """Return the annotation of a field that is read from a mapping into the dataclass `cls`.

    Args:
        cls: a frozen dataclass; its ValueErrors become faults of the scenario.
        choices: for fields of `cls` that are choices by name themselves.
    """
    return Choice({None: cls}, _make_model(cls, None, choices), nested=choices)


def choice(
    table: Table,
    *,
    factory: type | None = None,
    in_order: type | None = None,
    **choices: "Choice | OneOrSeveral",
) -> "Choice | OneOrSeveral":
    """Return the annotation of a field that is read from `{name: ..., fields...}`.

    Args:
        table: name -> dataclass. An entry with a `presets` method also takes a key `preset`, whose
            fields hold where the mapping does not give them.
        factory: dataclass for names with a colon, which become its field `path`.
        in_order: dataclass for a list of choices, which become its field `steps`.
        choices: for fields of the table's entries that are choices by name themselves.
    """
    one = _choice_of_one(table, factory, choices)
    return one if in_order is None else OneOrSeveral(one, in_order)


def _choice_of_one(
    table: Table, factory: type | None, nested: Mapping[str, "Choice | OneOrSeveral"]
) -> "Choice":
    models = {name: _make_model(cls, name, nested) for name, cls in table.items()}
    if factory is not None:
        models[FACTORY] = _make_model(factory, FACTORY, {})
    if len(models) == 1:
        return Choice(table, *models.values(), factory=factory, nested=nested)
    tagged = [Annotated[model, Tag(name)] for name, model in models.items()]
    union: Any = Annotated[Union[tuple(tagged)], Discriminator(_name_of)]  # noqa: UP007 - made from a list
    return Choice(table, union, factory=factory, nested=nested)


def presets_of(cls: Any) -> Mapping[str, Any]:
    """Return the named presets of an entry: name -> instance; empty if it has none."""
    presets = getattr(cls, "presets", None)
    return presets() if presets is not None else {}


def field_docs(cls: type) -> dict[str, str]:
    """Return the sentence under each field of a dataclass, those of its bases included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs.update(_own_field_docs(base))
    return docs


def nearest(name: str, known: list[str]) -> str:
    """Return "; did you mean 'x'?" for the known name nearest to a misspelt one, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class _PartModel(BaseModel):
    """Base of the models made from dataclasses; checks that the dataclass takes the values."""

    # Their descriptions are the dataclasses'; looking for others takes seconds of every start.
    model_config = ConfigDict(**CONFIG | {"use_attribute_docstrings": False})
    builds: ClassVar[Any]

    def build(self) -> Any:
        """Return the instance of the dataclass."""
        values = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self.builds)
        }
        return self.builds(**values)

    @model_validator(mode="after")
    def _takes_values(self) -> "_PartModel":
        self.build()
        return self


class Choice:
    """Reads what YAML or Python gives into a dataclass, and writes it back.

    Stands in `Annotated[Sanitizer, choice(SANITIZERS)]`: the first is what type checkers see.
    """

    def __init__(
        self,
        table: Mapping[Any, Any],
        model: Any,
        *,
        factory: type | None = None,
        nested: Mapping[str, "Choice | OneOrSeveral"] | None = None,
    ) -> None:
        self.table = table
        self.model = model
        self.factory = factory
        self.nested = nested or {}

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Build the schema from the table; the annotated type itself says nothing about fields."""
        return core_schema.no_info_before_validator_function(
            self._prepare,
            core_schema.no_info_after_validator_function(
                _PartModel.build, handler.generate_schema(self.model)
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(self._dump),
        )

    def _prepare(self, given: Any) -> Any:
        """Spell out an instance, check the name, and put the preset under the given fields."""
        if dataclasses.is_dataclass(given):
            given = self._dump(given)
        if None in self.table:
            return {} if given is None else given
        if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
            raise PydanticCustomError("no_name", "must be a mapping with a name, got {got}",
                                      {"got": repr(given)})  # fmt: skip
        name = given["name"]
        if self.factory is not None and ":" in name:
            return {**given, "name": FACTORY, "path": name}
        if name not in self.table:
            known = [*self.table, *([FACTORY] if self.factory else [])]
            raise PydanticCustomError(
                "unknown_name",
                "{got} is not one of {known}{nearest}",
                {"got": repr(name), "known": ", ".join(known), "nearest": nearest(name, known)},
            )
        return self._with_preset(given, self.table[name])

    def _with_preset(self, given: Mapping[str, Any], cls: Any) -> Mapping[str, Any]:
        if "preset" not in given:
            return given
        presets = presets_of(cls)
        preset = given["preset"]
        if preset not in presets:
            raise PydanticCustomError(
                "unknown_preset",
                "preset: {got} is not one of {known}",
                {"got": repr(preset), "known": ", ".join(presets) or "(it has none)"},
            )
        own = {kebab(key): value for key, value in given.items() if key != "preset"}
        base = {kebab(key): value for key, value in vars(presets[preset]).items()}
        return {**base, **own}

    def _dump(self, value: Any) -> dict[str, Any]:
        """Write an instance as the mapping that reads into it."""
        values = {
            kebab(field.name): getattr(value, field.name) for field in dataclasses.fields(value)
        }
        for name, inner in self.nested.items():
            if hasattr(value, name):
                values[kebab(name)] = inner._dump(getattr(value, name))
        if self.factory is not None and isinstance(value, self.factory):
            return {"name": values.pop("path"), **values}
        for name, cls in self.table.items():
            if type(value) is cls:
                return values if name is None else {"name": name, **values}
        raise ValueError(f"{type(value).__name__} is not in the table")


class OneOrSeveral:
    """Reads one part, or a list of them; writes back what was read.

    Args:
        one: reads a single part.
        join: dataclass that several parts become, in its field `steps`; without it the value is a
            tuple, also of a single one.
        or_none: whether the list may be empty.
    """

    def __init__(self, one: Choice, join: Any = None, *, or_none: bool = False) -> None:
        self.one = one
        self.join = join
        self.or_none = or_none

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Fork before reading, so that faults are told where they stand in the file."""
        single = self.one.__get_pydantic_core_schema__(source, handler)
        several: CoreSchema = core_schema.list_schema(single, min_length=0 if self.or_none else 1)
        after = core_schema.no_info_after_validator_function
        if self.join is not None:
            several = after(lambda read: self.join(steps=tuple(read)), several)
        forked: CoreSchema = core_schema.tagged_union_schema(
            {ONE: single, LIST: several},
            discriminator=lambda given: LIST if isinstance(given, list) else ONE,
        )
        if self.join is None:
            forked = after(lambda read: tuple(read) if isinstance(read, list) else (read,), forked)
        return core_schema.no_info_before_validator_function(
            lambda given: given if (parts := self._parts(given)) is None else list(parts),
            forked,
            serialization=core_schema.plain_serializer_function_ser_schema(self._dump),
        )

    def _parts(self, value: Any) -> tuple[Any, ...] | None:
        """Return the parts of several, or None for a single one."""
        if self.join is not None:
            return value.steps if isinstance(value, self.join) else None
        return value if isinstance(value, tuple) else None

    def _dump(self, value: Any) -> Any:
        parts = self._parts(value)
        if parts is None:
            return self.one._dump(value)
        written = [self.one._dump(part) for part in parts]
        return written[0] if self.join is None and len(written) == 1 else written


def _name_of(given: Any) -> str | None:
    return given.get("name") if isinstance(given, Mapping) else None


def _make_model(
    cls: type, name: str | None, choices: Mapping[str, "Choice | OneOrSeveral"]
) -> type[_PartModel]:
    hints, docs = get_type_hints(cls), field_docs(cls)
    fields: dict[str, Any] = {}
    if name is not None:
        fields["name"] = (str if name == FACTORY else Literal[name], ...)
    for field in dataclasses.fields(cls):
        default: Any = ...
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        described = Field(default=default, description=docs.get(field.name))
        annotation: Any = hints[field.name]
        if field.name in choices:
            annotation = Annotated[annotation, choices[field.name]]
        fields[field.name] = (annotation, described)
    model: type[_PartModel] = create_model(
        f"{cls.__name__}", __base__=_PartModel, __doc__=inspect.getdoc(cls), **fields
    )
    model.builds = cls
    return model


@cache
def _own_field_docs(cls: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            docs[statement.target.id] = inspect.cleandoc(str(following.value.value))
    return docs
