"""Every shipped YAML file loads, and says what the code says."""

import json
import re
from pathlib import Path

import pytest
import yaml

from fl_defense.sanitizers import SANITIZERS
from simulations.scenario import ConfigError
from simulations.scenario.load import load_scenario, scenario_schema
from simulations.scenario.scenario import Scenario

CONFIGS = Path(__file__).parents[1] / "configs"
SCENARIOS = sorted((CONFIGS / "scenarios").glob("*.yaml"))
DEFENSES = sorted((CONFIGS / "defenses").glob("*.yaml"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_loads_and_carries_its_file_name(path: Path) -> None:
    scenario = load_scenario(path)
    assert scenario.name == path.stem
    assert path.read_text().startswith("# yaml-language-server: $schema=../scenario.schema.json\n")


def test_the_scenarios_show_every_label_mode() -> None:
    backdoors = [load_scenario(path).backdoors for path in SCENARIOS]
    assert any(len(several) > 1 for several in backdoors)
    assert any(backdoor.sources for several in backdoors for backdoor in several)
    text = (CONFIGS / "scenarios" / "digits_two_backdoors.yaml").read_text()
    (override,) = re.findall(r"--set '(backdoor=.*)'", text)
    path = CONFIGS / "scenarios" / "digits_two_backdoors.yaml"
    assert load_scenario(path, [override]).backdoors[0].target == "next-class"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_control_runs_need_no_other_file(path: Path) -> None:
    control = load_scenario(path, ["attack.name=none", "defense.name=none"])
    assert control.malicious_clients == ()


@pytest.mark.parametrize("name", SANITIZERS)
def test_the_quickstart_takes_every_defense_by_its_name(name: str) -> None:
    quickstart = CONFIGS / "scenarios" / "quickstart.yaml"
    assert load_scenario(quickstart, [f"defense.name={name}"]).defense == SANITIZERS[name]()


def test_the_shipped_schema_is_the_programs() -> None:
    assert json.loads((CONFIGS / "scenario.schema.json").read_text()) == scenario_schema()


def test_every_defense_has_a_file() -> None:
    assert {path.stem.replace("_", "-") for path in DEFENSES} == SANITIZERS.keys()


@pytest.mark.parametrize("path", DEFENSES, ids=lambda path: path.stem)
def test_a_defense_file_spells_out_every_default(path: Path) -> None:
    written = yaml.safe_load(path.read_text())
    cls = SANITIZERS[written["name"]]
    assert (
        written
        == Scenario(name="x", defense=cls()).model_dump(mode="json", by_alias=True)["defense"]
    )


def test_a_defense_file_can_be_pasted_into_a_scenario(tmp_path: Path) -> None:
    for path in DEFENSES:
        scenario = tmp_path / "x.yaml"
        scenario.write_text(
            yaml.safe_dump({"name": "x", "defense": yaml.safe_load(path.read_text())})
        )
        try:
            load_scenario(scenario)
        except ConfigError as error:
            pytest.fail(f"{path}: {error}")
