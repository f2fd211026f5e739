"""The layers of the project: a module imports from its own layer or from below."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = (
    {
        "fl_defense.model_spec", "fl_defense.model_cut", "fl_defense.batchnorm", "fl_defense.metrics",
        "fl_defense.surrogates", "fl_defense.patch_search", "fl_defense.distortion_search",
        "fl_defense.ranges", "fl_defense.computation",
    },
    {
        "fl_defense.sanitizers", "fl_defense.schedule", "fl_defense.gate",
        "fl_defense.inspections", "fl_defense.alarm",
    },
    {
        "fl_defense.strategy", "fl_defense.repairer", "fl_defense.replies",
        "fl_defense.buffers", "fl_defense.arrays", "fl_defense.records",
        "fl_defense.checkpoint", "fl_defense.model_files", "fl_defense.pictures", "fl_defense",
    },
    {
        "simulations.scenario", "simulations.choices", "simulations.faults", "simulations.attacks",
        "simulations.backdoor", "simulations.triggers", "simulations.aggregators", "simulations.data",
        "simulations.models", "simulations",
    },
    {
        "simulations.server", "simulations.client", "simulations.recorder",
        "simulations.evaluation", "simulations.plots", "simulations.ordered_grid",
        "simulations.table", "simulations.results", "simulations.preflight", "simulations.calibration",
        "simulations.model_requests", "simulations.terminal", "simulations.listing",
    },
    {
        "simulations.cli", "simulations.run", "simulations.engines", "simulations.flower_app",
        "simulations.file_commands",
    },
)  # fmt: skip

ONLY_TORCH = ("flwr", "ray", "yaml", "pydantic", "sklearn", "torchvision", "numpy", "rich")


IN_HAND = {"fl-defense", "pydantic-core"}
"""Ourselves, and pydantic's other half, of which it demands one exact version."""


def modules() -> dict[str, Path]:
    found = {}
    for package in ("fl_defense", "simulations"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def layer_of(module: str) -> int:
    while module:
        for number, names in enumerate(LAYERS):
            if module in names:
                return number
        module = module.rpartition(".")[0]
    raise AssertionError("every module belongs to a layer")


def imports_of(path: Path) -> set[str]:
    """Names of imported modules; what is imported for type checkers alone does not count."""
    tree = ast.parse(path.read_text())
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
    return names


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module: str) -> None:
    own = [name for name in imports_of(modules()[module])
           if name.split(".")[0] in ("fl_defense", "simulations")]  # fmt: skip
    above = [name for name in own if layer_of(name) > layer_of(module)]
    assert above == []


@pytest.mark.parametrize("module", [m for m in sorted(modules()) if layer_of(m) < 2])
def test_methods_need_torch_alone(module: str) -> None:
    roots = {name.split(".")[0] for name in imports_of(modules()[module])}
    assert roots.isdisjoint(ONLY_TORCH)


def test_sanitizers_load_neither_flower_nor_attacks_and_triggers_load_torch_alone() -> None:
    code = """
import sys
def loaded(*names):
    print([name for name in names if name in sys.modules])
import fl_defense, fl_defense.sanitizers
loaded("flwr", "ray", "yaml", "pydantic", "simulations")
import simulations.backdoor
loaded("flwr", "ray", "yaml", "pydantic", "sklearn", "torchvision", "PIL")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]


def test_benchmarks_on_single_models_need_neither_flower_nor_pydantic() -> None:
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("flwr", "ray", "pydantic"):
            raise ImportError(name + " is not installed")
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import repair, victims, controls
try:
    import flwr
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "flwr is not installed"


def test_the_in_process_engine_never_imports_ray(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from simulations.run import run_scenario
from simulations.scenario import load_scenario
text = "name: x\\nrounds: 1\\ndata: {{name: digits, max-train: 40, max-test: 40}}\\n" \
       "model: {{name: small-cnn, width: 4}}\\nclients: {{count: 2}}\\nengine: {{name: in-process}}"
path = Path({str(tmp_path)!r}) / "x.yaml"
path.write_text(text)
run_scenario(load_scenario(path), path.parent / "out")
print("ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def names_of(requirements: Iterable[str]) -> set[str]:
    """Names of distributions, spelled alike."""
    found = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {name[0].lower().replace("_", "-") for name in found if name}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [(("fl_defense", "simulations"), ()), (("benchmarks", "deploy", "tests"), ("dev",))],
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
