"""What `fl-defense list` prints: each field of a scenario, its default and its meaning."""

from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from pydantic import BaseModel
from rich.table import Table

from fl_defense.model.split import default_cut
from simulations.cli.terminal import console, escape
from simulations.scenario.fields import REQUIRED, first_sentence, kebab
from simulations.scenario.named_parts import NamedPart, presets_of
from simulations.scenario.parts import OneOrSeveral, OrNone, Part, Reader
from simulations.scenario.scenario import Scenario
from simulations.scenario.tables import TABLES

Row = tuple[str, str, str]
"""A field's name, its default as YAML spells it, and its sentence."""


def print_fields() -> None:
    """Print the fields of a scenario, then what its parts may be, each with its own fields."""
    console.rule("[bold]scenario[/bold]", align="left")
    _print(scenario_rows())
    for kind, part in TABLES.items():
        console.rule(f"[bold]{kind}[/bold]", align="left")
        for name, cls in part.table.items():
            console.print(f"[bold cyan]{name}[/bold cyan]  {escape(first_sentence(cls))}")
            if presets := ", ".join(presets_of(cls)):
                console.print(f"  presets: {presets}")
            if kind == "model":
                cut = default_cut(cls().build((3, 32, 32), 10))
                console.print(f"  with these defaults cut after submodule {cut}")
            _print(part_rows(part.part_of(cls)))
    console.print(
        "All of them also take package.module:Class, a frozen dataclass of the same kind;"
    )
    console.print("model and aggregator a function, too, e.g. torchvision.models:resnet18.")


def scenario_rows() -> Iterator[Row]:
    """Yield the fields of a scenario, dotted as `--set` takes them."""
    yield from _model_rows(Scenario(name="NAME"))


def part_rows(
    part: Part, value: Any = None, prefix: str = "", *, names_alone: bool = False
) -> Iterator[Row]:
    """Yield the fields of a part, with an instance's values or else the defaults."""
    for key, (setting, reader) in part.settings.items():
        default = setting.default if value is None else getattr(value, setting.name)
        if default is REQUIRED:
            yield prefix + key, "(required)", setting.sentence
        else:
            yield from _rows(
                prefix + key, reader, default, setting.sentence, names_alone=names_alone
            )


def _model_rows(model: BaseModel, prefix: str = "") -> Iterator[Row]:
    for name, field in type(model).model_fields.items():
        key, value = prefix + kebab(field.alias or name), getattr(model, name)
        readers = [part for part in field.metadata if isinstance(part, Reader)]
        if isinstance(value, BaseModel):
            yield from _model_rows(value, f"{key}.")
        elif readers:
            yield from _rows(key, readers[0], value, field.description or "", names_alone=True)
        else:
            default = "(required)" if field.is_required() else spelled(value)
            yield key, default, field.description or ""


def _rows(
    key: str, reader: Reader, value: Any, sentence: str, *, names_alone: bool
) -> Iterator[Row]:
    """Yield one row for a single value, or those of a part's fields."""
    if isinstance(reader, OrNone) and value is not None:
        reader = reader.part
    if isinstance(reader, OneOrSeveral) and isinstance(value, tuple) and value:
        reader, value = reader.one, value[0]
    if isinstance(reader, Part) and value is not None:
        yield from part_rows(reader, value, f"{key}.", names_alone=names_alone)
    elif names_alone and isinstance(reader, NamedPart | OneOrSeveral) and value != ():
        yield key, reader.write(value)["name"], sentence
    else:
        yield key, spelled(reader.write(value)), sentence


def spelled(value: Any) -> str:
    """Return a value as YAML spells it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    # A single value ends in the mark of the document's end.
    return text.removesuffix("...\n").strip()


def _print(rows: Iterable[Row]) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)  # a key that is cut off cannot be copied
    grid.add_column()
    grid.add_column()
    for name, default, sentence in rows:
        grid.add_row(f"  {name}", escape(default), escape(" ".join(sentence.split())))
    if grid.row_count:
        console.print(grid)
