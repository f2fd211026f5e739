"""What `fl-defense list` prints: each field of a scenario, its default and its meaning."""

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import yaml
from pydantic import BaseModel
from rich.table import Table

from fl_defense.model.split import default_cut
from simulations.cli.terminal import console, escape
from simulations.scenario.named_parts import field_docs, kebab, presets_of
from simulations.scenario.scenario import Scenario
from simulations.scenario.tables import TABLES

Row = tuple[str, str, str]
"""A field's name, its default as YAML spells it, and its sentence."""


def print_fields() -> None:
    """Print the fields of a scenario, then what its parts may be, each with its own fields."""
    console.rule("[bold]scenario[/bold]", align="left")
    _print(_fields_of(Scenario(name="NAME")))
    for kind, table in TABLES.items():
        console.rule(f"[bold]{kind}[/bold]", align="left")
        for name, cls in table.items():
            presets = ", ".join(presets_of(cls))
            about = (cls.__doc__ or "").strip().splitlines()[0]
            console.print(f"[bold cyan]{name}[/bold cyan]  {escape(about)}")
            if presets:
                console.print(f"  presets: {presets}")
            if kind == "model":
                cut = default_cut(cls().build((3, 32, 32), 10))
                console.print(f"  with these defaults cut after submodule {cut}")
            docs = field_docs(cls)
            _print((kebab(f.name), _default(f), docs.get(f.name, "")) for f in fields(cls))
    console.print("model  also takes package.module:factory, e.g. torchvision.models:resnet18")


def _print(rows: Iterable[Row]) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, default, sentence in rows:
        grid.add_row(f"  {name}", escape(default), escape(" ".join(sentence.split())))
    if grid.row_count:
        console.print(grid)


def _fields_of(part: Any, prefix: str = "") -> Iterator[Row]:
    """Yield the fields of a scenario with its defaults, dotted as `--set` takes them."""
    required: set[str] = set()
    if isinstance(part, BaseModel):
        described = type(part).model_fields
        docs = {name: field.description or "" for name, field in described.items()}
        keys = {name: field.alias or name for name, field in described.items()}
        required = {name for name, field in described.items() if field.is_required()}
    else:
        docs = field_docs(type(part))
        keys = {field.name: kebab(field.name) for field in fields(part)}
    for name, key in keys.items():
        value, sentence = getattr(part, name), docs.get(name, "")
        if key in TABLES:
            yield prefix + key, _name_of(value), sentence
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            yield from _fields_of(value[0], f"{prefix}{key}.")
        elif isinstance(value, BaseModel) or is_dataclass(value):
            yield from _fields_of(value, f"{prefix}{key}.")
        else:
            yield prefix + key, "(required)" if name in required else _spelled(value), sentence


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return _spelled(field.default)
    if field.default_factory is not MISSING:
        return _spelled(field.default_factory())
    return "(required)"


def _spelled(default: Any) -> str:
    """Return a default as YAML spells it."""
    text = yaml.safe_dump(_mapping(default), default_flow_style=True, width=1000, sort_keys=False)
    # A single value ends in the mark of the document's end.
    return text.removesuffix("...\n").strip()


def _mapping(default: Any) -> Any:
    """Return what is read into a default: a list, or the mapping of a part with its name."""
    if isinstance(default, tuple):
        return [_mapping(value) for value in default]
    if not is_dataclass(default):
        return default
    inner = {kebab(field.name): getattr(default, field.name) for field in fields(default)}
    return {"name": _name_of(default), **inner}


def _name_of(chosen: Any) -> str:
    """Return the name that a table gives to what a default chooses."""
    names = {cls: name for table in TABLES.values() for name, cls in table.items()}
    return names[type(chosen)]
