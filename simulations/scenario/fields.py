"""The fields of a dataclass as a scenario spells them: key, type, default and sentence."""

import ast
import dataclasses
import inspect
import textwrap
from functools import cache
from itertools import takewhile
from typing import Any, get_type_hints

REQUIRED: Any = dataclasses.MISSING
"""The default of a field that has none."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field."""

    name: str
    """As Python spells it."""
    key: str
    """As YAML spells it."""
    hint: Any
    """Its type."""
    default: Any
    """Its default, or REQUIRED."""
    sentence: str
    """The docstring under it; empty if there is none."""


def kebab(name: str) -> str:
    """Spell a field's name as YAML does: poison_rate -> poison-rate."""
    return name.replace("_", "-")


@cache
def settings_of(cls: type) -> tuple[Setting, ...]:
    """Return the fields that an instance of a dataclass is made from."""
    hints, docs = get_type_hints(cls, include_extras=True), field_docs(cls)
    return tuple(
        Setting(
            field.name, kebab(field.name), hints[field.name], _default(field),
            docs.get(field.name, ""),
        )
        for field in dataclasses.fields(cls)
        if field.init
    )  # fmt: skip


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Return the sentence under each field of a dataclass, those of its bases included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs.update(_own_field_docs(base))
    return docs


def first_sentence(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def description(cls: type) -> str:
    """Return a class's docstring without what is for those who call it from Python.

    Example:
        >>> description(Setting)
        'One field.'
    """
    lines = (inspect.getdoc(cls) or "").splitlines()
    kept = takewhile(lambda line: line not in ("Args:", "Raises:", "Example:"), lines)
    return "\n".join(kept).rstrip()


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _own_field_docs(cls: type) -> dict[str, str]:
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError):
        return {}  # A class made at a prompt has no source to read.
    assert isinstance(definition, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            docs[statement.target.id] = inspect.cleandoc(str(following.value.value))
    return docs
