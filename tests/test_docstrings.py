"""Examples in docstrings run, and every public name has one."""

import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import fl_defense

ROOT = Path(__file__).parents[1]
PUBLIC_MODULES = (
    "fl_defense.testing",
    "fl_defense.facts",
    "fl_defense.sanitizers.base",
    "fl_defense.inspections.base",
    "fl_defense.screens.base",
    "fl_defense.surrogates.base",
    "simulations.attack.base",
    "simulations.attack.context",
    "simulations.attack.triggers.base",
    "simulations.data.base",
    "simulations.models.base",
    "simulations.engines.base",
    "simulations.metrics.base",
    "simulations.aggregators",
)
"""Modules whose names are public, as decision 0011 lists them."""
DOORS = (
    "fl_defense.sanitizers",
    "fl_defense.inspections",
    "fl_defense.screens",
    "fl_defense.search.patterns",
    "simulations.attack",
    "simulations.attack.triggers",
    "simulations.data",
    "simulations.engines",
    "simulations.metrics",
    "simulations.models",
    "simulations.scenario",
)
"""Rooms that hand on names."""


def modules() -> Iterator[str]:
    """The modules whose text holds an example."""
    for package in ("fl_defense", "simulations", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if ">>>" in path.read_text(encoding="utf-8"):
                parts = path.relative_to(ROOT).with_suffix("").parts
                yield ".".join(part for part in parts if part != "__init__")


def defined_in(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The public classes and functions of a module, with their names."""
    for name, found in vars(module).items():
        is_own = getattr(found, "__module__", None) == module.__name__
        if is_own and not name.startswith("_") and (inspect.isclass(found) or callable(found)):
            yield f"{module.__name__}.{name}", found


def imported_by_docs() -> Iterator[tuple[str, str]]:
    """What README, pages and examples import of ours: module and name."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.py")]
    for page in pages:
        for place, names in re.findall(
            r"^from ((?:fl_defense|simulations)[\w.]*) import ([\w, ]+)$",
            page.read_text(),
            re.MULTILINE,
        ):
            yield from ((place, name.strip()) for name in names.split(","))


def public() -> dict[str, Any]:
    """All that users may rely on and that can have a docstring, by where it is defined."""
    found = dict(
        pair for name in PUBLIC_MODULES for pair in defined_in(importlib.import_module(name))
    )
    doors = [(fl_defense, name) for name in fl_defense.__all__]
    for place in DOORS:
        door = importlib.import_module(place)
        doors += [(door, name) for name in getattr(door, "__all__", ())]
    doors += [(importlib.import_module(place), name) for place, name in imported_by_docs()]
    for door, name in doors:
        thing = getattr(door, name)
        if inspect.isclass(thing) or inspect.isroutine(inspect.unwrap(thing)):
            found[f"{thing.__module__}.{thing.__name__}"] = thing
    return found


PUBLIC = public()


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_an_example(name: str) -> None:
    assert ">>>" in (PUBLIC[name].__doc__ or ""), f"{name}: show how it is used"


@pytest.mark.parametrize("name", list(modules()))
def test_examples_are_right(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a folder of its own, and with names of its own."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    runner, told = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), list[str]()
    for example in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        runner.run(example, out=told.append)
    assert runner.tries > 0
    assert not runner.failures, "".join(told)
