"""What `fl-defense list` prints: each field of a scenario, its default and its meaning."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel
from rich.table import Table

from fl_defense.model.split import default_cut
from simulations import shipped
from simulations.cli.terminal import console, escape
from simulations.scenario import ConfigError
from simulations.scenario.errors import nearest
from simulations.scenario.fields import REQUIRED, first_sentence, kebab
from simulations.scenario.named_parts import NamedPart, presets_of
from simulations.scenario.parts import Part
from simulations.scenario.readers import OneOrSeveral, OrNone, Reader
from simulations.scenario.scenario import Scenario
from simulations.scenario.tables import TABLES

Row = tuple[str, str, str]
"""A field's name, its default as YAML spells it, and its sentence."""
NEEDED = "(required)"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that a scenario may name."""

    name: str
    about: str
    presets: tuple[str, ...] = ()
    note: str = ""
    rows: tuple[Row, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it for other programs; a field without a default must be given."""
        fields = [
            {"key": key, "meaning": " ".join(sentence.split())}
            | ({} if default == NEEDED else {"default": yaml.safe_load(default)})
            for key, default, sentence in self.rows
        ]
        return {
            "name": self.name, "about": self.about, "presets": list(self.presets), "fields": fields
        }  # fmt: skip


def print_list(name: str | None, *, as_json: bool) -> None:
    """Print all that a scenario may say, or one kind of parts, or the parts of one name.

    Raises:
        ConfigError: if nothing is called `name`.
    """
    chosen = listed(name)
    if as_json:
        told = {kind: [each.as_json() for each in entries] for kind, entries in chosen.items()}
        print(json.dumps(told, indent=2))  # noqa: T201 - plain, for a pipe
        return
    for kind, entries in chosen.items():
        console.rule(f"[bold]{kind}[/bold]", align="left")
        for entry in entries:
            if kind != "scenario":
                console.print(f"[bold cyan]{entry.name}[/bold cyan]  {escape(entry.about)}")
            if entry.presets:
                console.print(f"  presets: {', '.join(entry.presets)}")
            if entry.note:
                console.print(f"  {entry.note}")
            _print(entry.rows)
    if chosen.keys() & TABLES.keys():
        console.print("Parts also take package.module:Class, a frozen dataclass of the same kind;")
        console.print("model and aggregator a function, too, e.g. torchvision.models:resnet18.")


def listed(name: str | None) -> dict[str, list[Entry]]:
    """Return what is called `name`, by kind; None: the scenario's fields and all parts.

    Raises:
        ConfigError: if nothing is.
    """
    kinds = {"scenario": _scenario, "scenarios": _scenarios, "plans": _plans}
    if name in kinds:
        return {name: kinds[name]()}
    if name in TABLES:
        return {name: _parts(name)}
    if name is None:
        return {"scenario": _scenario(), **{kind: _parts(kind) for kind in TABLES}}
    found = {kind: [each for each in _parts(kind) if each.name == name] for kind in TABLES}
    if not any(found.values()):
        known = [*kinds, *TABLES, *(key for part in TABLES.values() for key in part.table)]
        raise ConfigError(
            [
                f"list: nothing is called {name!r}{nearest(name, known)}; "
                f"kinds: {', '.join([*kinds, *TABLES])}"
            ]
        )
    return {kind: entries for kind, entries in found.items() if entries}


def _scenario() -> list[Entry]:
    return [Entry(name="scenario", about=first_sentence(Scenario), rows=tuple(scenario_rows()))]


def _scenarios() -> list[Entry]:
    return [
        Entry(name=name, about=shipped.purpose(path)) for name, path in shipped.scenarios().items()
    ]


def _plans() -> list[Entry]:
    return [Entry(name=name, about=shipped.purpose(path)) for name, path in shipped.plans().items()]


def _parts(kind: str) -> list[Entry]:
    part = TABLES[kind]
    return [
        Entry(
            name=name,
            about=first_sentence(cls),
            presets=tuple(presets_of(cls)),
            note=f"with these defaults cut after submodule {_cut(cls)}" if kind == "model" else "",
            rows=tuple(part_rows(part.part_of(cls))),
        )
        for name, cls in part.table.items()
    ]


def _cut(architecture: Any) -> str:
    return default_cut(architecture().build((3, 32, 32), 10))


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
            yield prefix + key, NEEDED, setting.sentence
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
            default = NEEDED if field.is_required() else spelled(value)
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
