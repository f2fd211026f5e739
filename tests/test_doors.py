"""One file from outside is enough for each axis: it comes in by its path and takes part in a run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from simulations.cli.main import app
from simulations.federation.run import run_scenario
from simulations.scenario import ConfigError
from simulations.scenario.load import load_scenario
from simulations.scenario.tables import TABLES
from tests import outside
from tests.quick import SEARCH_IN_YAML

ROOT = Path(__file__).parents[1]
BASE = f"""
name: x
rounds: 1
data: {{name: digits, max-train: 40, max-test: 40}}
model: {{name: small-cnn, width: 4}}
clients: {{count: 2}}
engine: {{name: in-process}}
repair: {{verify: {SEARCH_IN_YAML}}}
"""
AXES = {
    "data": "data: {name: 'tests.outside:Stripes', max-train: 40}",
    "partition": "partition: {name: 'tests.outside:Turns', offset: 1}",
    "model": "model: {name: 'tests.outside:Pooled', side: 2}",
    "model's function": "model: {name: 'tests.outside:linear_network', arguments: {size: 256}}",
    "learning-rate-schedule": """
training: {learning-rate-schedule: {name: 'tests.outside:Halved', after: 2}}
""",
    "trigger": "backdoor: {trigger: {name: 'tests.outside:Corner', brightness: 0.5}, target: 1}",
    "attack": "attack: {name: 'tests.outside:Loud', malicious: [1], factor: 2}",
    "aggregator": "aggregator: {name: 'tests.outside:Mean', bonus: 3}",
    "strategy": "aggregator: {name: 'tests.outside:Named', arguments: {label: hello}}",
    "strategy's function": "aggregator: {name: 'tests.outside:named_strategy'}",
    "screens": "screens: {name: 'tests.outside:Lets', share: 0.5}",
    "defense": "defense: {name: 'tests.outside:Shrinks', factor: 0.5}",
    "inspection": """
defense: {name: clp}
repair:
  schedule: {on-suspicion: 0.1, last: false}
  inspection: {name: 'tests.outside:Feels', anomaly: 7}
  verify: null
""",
    "surrogate": """
defense:
  name: bcu
  surrogate: {name: 'tests.outside:Gray', level: 0.25}
  num-images: 8
  epochs: 1
  batch-size: 4
""",
    "metrics": "metrics: {name: 'tests.outside:ShareOfClass0', label: 3}",
    "tracking": "tracking: {name: 'tests.outside:Notes', rounds: 1}",
    "engine": "engine: {name: 'tests.outside:Counts', cpus-per-client: 1}",
}


def written(folder: Path, text: str) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(text)
    return path


def scenario_with(line: str) -> str:
    """The base without the keys that the line replaces."""
    replaced = {f"{key}:" for key in re.findall(r"^(\w+):", line, re.MULTILINE)}
    kept = [each for each in BASE.splitlines() if each.split(" ")[0] not in replaced]
    return "\n".join([*kept, line])


@pytest.mark.parametrize("axis", AXES)
def test_what_is_named_by_its_path_takes_part_in_a_run(axis: str, tmp_path: Path) -> None:
    scenario = load_scenario(written(tmp_path, scenario_with(AXES[axis])))
    outside.SEEN.clear()
    result = run_scenario(scenario, tmp_path / "out")
    assert axis in outside.SEEN
    assert result.records[-1].record.round == 1
    again = load_scenario(tmp_path / "out" / "scenario.yaml")
    assert again.to_yaml() == scenario.to_yaml()
    assert "tests.outside:" in again.to_yaml()


def test_every_table_has_a_proof() -> None:
    assert TABLES.keys() - AXES.keys() <= {"patterns"}


def test_a_metric_stands_in_every_file_and_table(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "out"
    run_scenario(load_scenario(written(tmp_path, scenario_with(AXES["metrics"]))), folder)
    last = json.loads((folder / "rounds.jsonl").read_text().splitlines()[-1])
    rate = last["rates"]["released"]["share_of_class_0"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["last_three_rounds"]["released"]["share_of_class_0"] == rate
    shown = CliRunner().invoke(app, ["show", str(folder)]).stdout
    assert "share of class 0" in shown
    assert f"share of class 0 {rate:.3f}" in shown
    compared = CliRunner().invoke(app, ["compare", str(folder)]).stdout
    assert "share of class 0" in compared


@pytest.mark.parametrize("name", [name for name in AXES if "'s" not in name and name != "strategy"])
def test_what_is_no_such_part_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    line = AXES[name]
    for other, reason in (
        ("NotFrozen", "must be a frozen dataclass"),
        ("Empty", "lacks '"),
        ("nowhere", "cannot import 'tests.outside:nowhere'"),
    ):
        text = scenario_with(re.sub(r"'tests\.outside:\w+'", f"'tests.outside:{other}'", line))
        with pytest.raises(ConfigError) as caught:
            load_scenario(written(tmp_path, text))
        fault = caught.value.faults[0]
        assert reason in fault, fault
        assert "\n" not in fault


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("defense: {name: 'tests.outside:Shrinks', facto: 2}",
         "defense.facto: unknown key; did you mean 'factor'?; known: name, preset, factor"),
        ("defense: {name: 'tests.outside:Shrinks', factor: 2}", "defense: factor must be in [0, 1], got 2.0"),
        ("defense: {name: 'tests.outside:Shrinks', preset: half, factor: 0.1}", None),
        ("defense: {name: 'tests.outside:Shuffled'}",
         "defense: 'tests.outside:Shuffled' has a 'sanitize' that cannot be called with (self, suspect, spec, state, reference); change its arguments"),
        ("defense: [{name: 'os:system'}]", "defense.0: 'os:system' must be a frozen dataclass: put @dataclass(frozen=True, kw_only=True) above it"),
        ("model: {name: 'os:system'}", "model: 'os:system' must be a subclass of Module, or a function annotated to return one; got builtin_function_or_method"),
        ("aggregator: {name: 'os:system'}", "aggregator: 'os:system' must be a subclass of Strategy, or a function annotated to return one; got builtin_function_or_method"),
        ("aggregator: {name: 'tests.outside:Named', arguments: {labl: x}}", "aggregator: tests.outside:Named cannot be called with"),
    ],
)  # fmt: skip
def test_faults_are_as_of_parts_that_ship(line: str, fault: str | None, tmp_path: Path) -> None:
    path = written(tmp_path, scenario_with(line))
    if fault is None:
        assert load_scenario(path).defense == outside.Shrinks(factor=0.1)
        return
    with pytest.raises(ConfigError) as caught:
        load_scenario(path)
    assert caught.value.faults[0].startswith(f"{path}: {fault}")


@pytest.mark.parametrize("axis", AXES)
def test_code_is_not_imported_for_a_file_that_nobody_trusts(axis: str, tmp_path: Path) -> None:
    text = scenario_with(AXES[axis]).replace("tests.outside:", "tests.never_imported:")
    with pytest.raises(ConfigError, match="is code to import, which is not done") as caught:
        load_scenario(written(tmp_path, text), trust_imports=False)
    assert len(caught.value.faults) == 1
    assert load_scenario(written(tmp_path, BASE), trust_imports=False).name == "x"


def blocks_of(page: str, kind: str) -> list[str]:
    text = (ROOT / "docs/contribute" / page).read_text()
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(
    ("page", "module"), [("add-a-defense.md", "my_defense"), ("add-an-attack.md", "my_attack")]
)
def test_the_page_is_right(
    page: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code, *tests = blocks_of(page, "python")
    (tmp_path / f"{module}.py").write_text(code)
    (scenario,) = blocks_of(page, "yaml")
    run_scenario(load_scenario(written(tmp_path, scenario)), tmp_path / "out")
    for test in tests:
        names: dict[str, Any] = {}
        exec(test, names)
        for name in [name for name in names if name.startswith("test_")]:
            names[name]()
