"""The checkout as a Flower app, driven as `flwr run` drives it, in this process."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

from fl_defense.rounds.journal import Journal
from simulations.engines.in_process import InProcessGrid
from simulations.federation import flower_app
from simulations.federation.run import run_scenario
from simulations.scenario import ConfigError

ROOT = Path(__file__).parents[3]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
SETTINGS = (
    "rounds=2 data.max-train=90 data.max-test=30 model.width=4 training.epochs=1 defense.name=none"
)


def run_config(**changes: str) -> dict[str, Any]:
    scenario = "configs/scenarios/deployment.yaml"
    return CONFIG["config"] | {"scenario": scenario, "settings": SETTINGS} | changes


def flwr_run(**changes: str) -> None:
    config = run_config(**changes)

    def client(message: Message, context: Context) -> Message:
        context.run_config = config
        return flower_app.client(message, context)

    context = Context(run_id=7, node_id=0, node_config={}, state=RecordDict(), run_config=config)
    flower_app.server(InProcessGrid(client, 3), context)  # type: ignore[arg-type]


def lines(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("_seconds")} for line in found]


def test_the_components_are_what_flower_loads() -> None:
    assert CONFIG["components"] == {
        "serverapp": "simulations.federation.flower_app:server",
        "clientapp": "simulations.federation.flower_app:client",
    }
    assert flower_app.scenario_of(CONFIG["config"]).name == "quickstart"
    for key in CONFIG["config"]:
        assert f"\n    {key}: " in (flower_app.__doc__ or "")


def test_it_gives_the_records_of_fl_defense_run(tmp_path: Path) -> None:
    flwr_run(out=str(tmp_path / "app"))
    run_scenario(flower_app.scenario_of(run_config()), tmp_path / "run")
    assert lines(tmp_path / "app") == lines(tmp_path / "run")
    assert (tmp_path / "app/scenario.yaml").read_text() == (
        tmp_path / "run/scenario.yaml"
    ).read_text()


def test_without_a_folder_it_takes_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flwr_run()
    assert (tmp_path / "results/deployment/7/summary.json").exists()


def test_an_interrupted_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    append = Journal.append

    def crash(self: Journal, record: Any) -> None:
        if record.round == 2:
            raise OSError("disk full")
        append(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", crash)
        with pytest.raises(OSError, match="disk full"):
            flwr_run(out=str(out))
    with pytest.raises(ConfigError, match="already holds a run"):
        flwr_run(out=str(out))
    with pytest.raises(ConfigError, match="holds a run of another scenario"):
        flwr_run(resume=str(out), settings=SETTINGS + " seed=1")
    flwr_run(resume=str(out))
    flwr_run(out=str(tmp_path / "whole"))
    assert lines(out) == lines(tmp_path / "whole")


def test_a_wrong_setting_is_told_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"deployment.yaml: sede: unknown key"):
        flower_app.scenario_of(run_config(settings="sede=1"))
