"""A disk that is full, broken or without power at each single call of a run that writes.

Whatever happened, the run goes on and ends as if nothing had: the same rounds, the same model.
"""

import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from fl_defense.atomic_write import replace_file
from fl_defense.rounds import gate
from fl_defense.rounds.schedule import Schedule
from simulations.aggregators import FedAdam
from simulations.cli.main import app
from simulations.data import Digits
from simulations.engines import InProcessEngine
from simulations.federation.run import resume_run, run_scenario
from simulations.measurement import results_folder
from simulations.models.small_cnn import SmallCNN
from simulations.scenario import ConfigError
from simulations.scenario.scenario import Clients, Repair, Scenario
from tests.simulations.federation.faulty_disk import Kind, PowerLossError, faulty_disk

SCENARIO = Scenario(
    name="small",
    rounds=2,
    data=Digits(max_train=20, max_test=10),
    model=SmallCNN(width=2),
    clients=Clients(count=3, per_round=2),
    aggregator=FedAdam(),
    repair=Repair(verify=None, schedule=Schedule(every=None)),
    engine=InProcessEngine(),
)

FAULTS = (OSError, ConfigError, PowerLossError)


@pytest.fixture(autouse=True, scope="module")
def little_is_computed() -> Iterator[None]:
    def draw(rounds: object, path: Path, *, title: str, metrics: object) -> None:
        replace_file(path, title.encode())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results_folder, "plot_curves", draw)
        patch.setattr(gate, "NUM_IMAGES", 8)
        yield


def lines(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("_seconds")} for line in found]


def go_on(out: Path) -> list[int]:
    """Do what a user does after a crash; return the rounds that were run for it."""
    told: list[int] = []
    if not (out / "scenario.yaml").exists():
        run_scenario(SCENARIO, out, lambda measured: told.append(measured.round))
    elif not (out / "summary.json").exists():
        resume_run(out, lambda measured: told.append(measured.round))
    return told


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    run_scenario(SCENARIO, out)
    return out


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    with faulty_disk("full", None) as disk:
        run_scenario(SCENARIO, tmp_path_factory.mktemp("counted") / "out")
    return disk.calls


def is_as(whole: Path, out: Path) -> bool:
    expected, found = load_file(whole / "model.safetensors"), load_file(out / "model.safetensors")
    return (
        lines(out) == lines(whole)
        and all(bool((found[name] == value).all()) for name, value in expected.items())
        and CliRunner().invoke(app, ["show", str(out)]).exit_code == 0
    )


def test_every_file_of_a_run_is_written_through_the_disk(calls: list[str]) -> None:
    names = {call.split(" ")[1].removesuffix(".tmp") for call in calls}
    assert names == {"out", "scenario.yaml", "rounds.jsonl", "checkpoint", "model.safetensors",
                     "curves.png", "confusion.json", "summary.json"}  # fmt: skip
    assert len(calls) > 40


def failing(kind: Kind, calls: list[str]) -> list[int]:
    """Return the calls to let fail: each if the power goes, else the last of those that are alike."""
    numbers = [i for i, call in enumerate(calls) if kind != "half" or call.startswith("write")]
    if kind == "power" or os.environ.get("EVERY_FAULT"):
        return numbers
    last_ones = sorted({calls[i]: i for i in numbers}.values())
    # What is full and what is broken differ in a number alone: half of the calls each.
    return {"full": last_ones[::2], "broken": last_ones[1::2], "half": last_ones}[kind]


@pytest.mark.parametrize("kind", ["full", "broken", "half", "power"])
def test_each_call_may_fail(kind: Kind, calls: list[str], whole: Path, tmp_path: Path) -> None:
    for at in failing(kind, calls):
        call, out = calls[at], tmp_path / str(at) / "out"
        with faulty_disk(kind, at) as disk, pytest.raises(FAULTS):
            run_scenario(SCENARIO, out)
        assert disk.calls[at] == call
        checkpoints = sum(each == "replace checkpoint" for each in calls[:at])
        again = go_on(out)
        # Each finished round is kept: none that a checkpoint vouches for is run again.
        assert again == [] or again[0] >= (checkpoints + 1 if checkpoints else 0), call
        assert is_as(whole, out), call
        assert not [
            path.name for path in out.iterdir() if path.suffix == ".tmp" and kind != "power"
        ]


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("name", ["scenario.yaml", "rounds.jsonl", "checkpoint", "summary.json"])
@pytest.mark.parametrize("kind", ["full", "broken"])
def test_a_user_is_told_in_one_line(
    name: str, kind: Kind, calls: list[str], whole: Path, tmp_path: Path
) -> None:
    given, out = tmp_path / "small.yaml", tmp_path / "out"
    given.write_text(SCENARIO.to_yaml())
    # The last one: what came before is finished.
    at = max(i for i, call in enumerate(calls) if call.removesuffix(".tmp") == f"write {name}")
    with faulty_disk(kind, at):
        result = invoke("run", given, "--quiet", "--out", out)
    assert result.exit_code == (2 if name == "scenario.yaml" else 1)
    (line,) = result.stderr.splitlines()
    assert {"full": "No space left on device", "broken": "Input/output error"}[kind] in line
    assert str(out) in line
    if name != "scenario.yaml":
        assert f"{out / name}: " in line
        assert "`fl-defense run --resume FOLDER` goes on with it" in line
        assert invoke("run", "--resume", out, "--quiet").exit_code == 0
        assert is_as(whole, out)


def test_a_clock_set_back_changes_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(2e9, -3600)
    monkeypatch.setattr(time, "time", lambda: next(seconds))
    run_scenario(SCENARIO, tmp_path / "out")
    assert next(seconds) < 2e9 - 3600
    assert is_as(whole, tmp_path / "out")
