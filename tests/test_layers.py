"""The layers of the project: a module imports from its own layer or from below."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS: dict[str, tuple[int, set[str]]] = {
    # room: floor, and the third-party packages that it may import
    "fl_defense.validation": (0, set()),
    "fl_defense.log": (-1, set()),
    "fl_defense.state": (0, set()),
    "fl_defense.facts": (0, set()),
    "fl_defense.atomic_write": (0, set()),
    "fl_defense.progress": (0, set()),
    "fl_defense.seal": (0, set()),
    "fl_defense.metrics": (0, {"torch"}),
    "fl_defense.model": (1, {"torch"}),
    "fl_defense.model.files": (1, {"torch", "safetensors"}),
    "fl_defense.surrogates": (2, {"torch"}),
    "fl_defense.surrogates.picture_folder": (2, {"torch", "numpy", "PIL"}),
    "fl_defense.search": (3, {"torch"}),
    "fl_defense.sanitizers": (4, {"torch"}),
    "fl_defense.inspections": (4, {"torch"}),
    "fl_defense.screens": (5, {"torch"}),
    "fl_defense.screens.clusters": (5, {"torch", "sklearn"}),
    "fl_defense.rounds": (6, {"torch"}),
    "fl_defense.flower": (7, {"torch", "numpy", "flwr"}),
    "fl_defense": (8, set()),
    "fl_defense.testing": (8, {"torch"}),
    "simulations.extras": (9, set()),
    "simulations.shipped": (9, set()),
    "simulations.aggregators": (9, {"flwr"}),
    "simulations.attack": (9, {"torch", "numpy", "PIL"}),
    "simulations.attack.triggers.edge_case": (9, {"torch", "sklearn"}),
    "simulations.engines": (9, {"torch", "flwr", "ray"}),
    "simulations.data": (9, {"torch", "numpy", "PIL", "sklearn", "torchvision"}),
    "simulations.data.emnist": (9, {"torch", "numpy", "scipy"}),
    "simulations.metrics": (9, {"torch"}),
    "simulations.models": (9, {"torch"}),
    "simulations.tracking": (9, {"torch", "mlflow"}),
    "simulations.training": (9, {"torch", "torchvision"}),
    "simulations.scenario": (10, {"torch", "flwr", "pydantic", "pydantic_core", "yaml"}),
    "simulations.measurement": (11, {"torch", "matplotlib", "safetensors", "scipy", "yaml"}),
    "simulations.federation": (12, {"torch", "numpy", "flwr", "ray"}),
    "simulations.report": (13, {"torch", "matplotlib", "plotly", "jinja2", "PIL"}),
    "simulations.sweep": (13, {"pydantic", "yaml"}),
    "simulations.cli": (14, {"torch", "pydantic", "rich", "typer", "yaml"}),
    "simulations": (15, set()),
    "fl_defense.__main__": (16, set()),  # the command: starts the application
}
"""A module belongs to the room with the longest name that it begins with."""

PACKAGES = ("fl_defense", "simulations")

IN_HAND = {"fl-defense", "pydantic-core", "ray"}
"""Ourselves, pydantic's other half, and what `flwr[simulation]` brings, in one exact version each."""


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package in ("fl_defense", "simulations"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def room_of(module: str) -> str:
    """Name of the room; a new module that lies in no room fails here."""
    if module in ROOMS:
        return module
    room = module.rpartition(".")[0]
    while room not in ROOMS:
        room = room.rpartition(".")[0]
    assert room not in PACKAGES, f"{module} lies in no room: give it a row in ROOMS"
    return room


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Names of imported modules; what is imported for type checkers alone does not count."""
    tree = tree_of(path)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return frozenset(names)


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_its_own_room_and_lower_ones(module: str) -> None:
    room = room_of(module)
    own = {name for name in imports_of(modules()[module]) if name.split(".")[0] in PACKAGES}
    rooms = {room_of(name) for name in own} - {room, "fl_defense"}
    # Files that may import more than their room are part of it all the same.
    outside = {other for other in rooms if not (room.startswith(other) or other.startswith(room))}
    assert {other for other in outside if ROOMS[other][0] >= ROOMS[room][0]} == set()


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_the_packages_that_its_room_may(module: str) -> None:
    roots = {name.split(".")[0] for name in imports_of(modules()[module])}
    others = roots - set(PACKAGES) - set(sys.stdlib_module_names)
    assert others <= ROOMS[room_of(module)][1]


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_private_name_stays_in_its_room(module: str) -> None:
    taken = private_imports(modules()[module])
    assert {name for name in taken if room_of(name) != room_of(module)} == set()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem
)
def test_benchmarks_take_public_names(path: Path) -> None:
    assert private_imports(path) == set()


def private_imports(path: Path) -> set[str]:
    """Our modules from which a file imports a name, or that have a name, with an underscore."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = [*node.module.split("."), *(alias.name for alias in node.names)]
            is_private = any(re.match("_(?!_)", part) for part in parts)
            if parts[0] in PACKAGES and is_private:
                found.add(node.module)
    return found


def test_a_module_in_no_room_fails() -> None:
    with pytest.raises(AssertionError, match="lies in no room"):
        room_of("fl_defense.brand_new")
    with pytest.raises(AssertionError, match="lies in no room"):
        room_of("simulations.brand_new")
    assert room_of("fl_defense.search.brand_new") == "fl_defense.search"
    assert room_of("fl_defense.model.files") == "fl_defense.model.files"


IMPORTS = """
import sys
from pathlib import Path

def loaded(*names):
    print([name for name in names if name in sys.modules])

import fl_defense.sanitizers
loaded("flwr", "ray", "yaml", "pydantic", "simulations")
import simulations.attack
loaded("flwr", "ray", "yaml", "pydantic", "sklearn", "torchvision", "PIL")

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("flwr", "ray", "pydantic"):
            raise ImportError(name + " is not installed")

sys.meta_path.insert(0, Blocker())
import benchmarks.repair, benchmarks.victims, benchmarks.controls
loaded("flwr", "ray", "pydantic")
sys.meta_path.pop(0)

from simulations.federation.run import run_scenario
from simulations.scenario.load import load_scenario
run_scenario(load_scenario(Path("x.yaml")), Path("out"))
loaded("flwr", "ray")
"""
SCENARIO = """
name: x
rounds: 1
data: {name: digits, max-train: 40, max-test: 40}
model: {name: small-cnn, width: 4}
clients: {count: 2}
engine: {name: in-process}
"""


def test_what_needs_less_loads_less(tmp_path: Path) -> None:
    """One process asks in turn, for the imports take longer than all else."""
    (tmp_path / "x.yaml").write_text(SCENARIO)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sanitizers, attacks, benchmarks_on_single_models, in_process_engine = done.stdout.splitlines()
    assert sanitizers == "[]"
    assert attacks == "[]"
    assert benchmarks_on_single_models == "[]"
    assert in_process_engine == "['flwr']"


def names_of(requirements: Iterable[str]) -> set[str]:
    """Names of distributions, spelled alike."""
    found = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {name[0].lower().replace("_", "-") for name in found if name}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (("fl_defense", "simulations"), ("simulation", "report", "tensorboard", "mlflow")),
        (("benchmarks", "deploy", "tests"), ("dev", "simulation", "tensorboard")),
    ],
)
def test_what_is_imported_is_declared(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = (project["optional-dependencies"][extra] for extra in extras)
    declared = names_of([*project["dependencies"], *(each for some in optional for each in some)])
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    roots = {name.split(".")[0] for path in paths for name in imports_of(path)}
    installed = packages_distributions()
    needed = {root: names_of(installed[root]) for root in roots if root in installed}
    assert {root for root, names in needed.items() if not names & (declared | IN_HAND)} == set()
    assert {"PIL", "torch"} <= needed.keys()


def test_every_public_name_exists() -> None:
    import fl_defense

    for name in fl_defense.__all__:
        assert getattr(fl_defense, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fl_defense.nothing
