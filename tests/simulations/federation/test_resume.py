"""A run that was killed goes on as if nothing had happened; kills are real ones."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fl_defense.flower.checkpoint import CheckpointFile
from fl_defense.rounds.journal import Journal
from fl_defense.sanitizers import DHBE
from simulations.aggregators import FedAdam
from simulations.attack.badnets import BadNets
from simulations.data import Digits
from simulations.engines import InProcessEngine
from simulations.federation import client_app as client
from simulations.federation.run import resume_run, run_scenario
from simulations.measurement import results_folder as results
from simulations.measurement.results_folder import ResultsFolder
from simulations.models.small_cnn import SmallCNN
from simulations.scenario import ConfigError
from simulations.scenario.scenario import Clients, Repair, Scenario
from simulations.scenario.training import Training
from tests.quick import DEFENSE, SEARCH

SCENARIO = Scenario(
    name="small",
    rounds=3,
    data=Digits(max_train=80, max_test=40),
    model=SmallCNN(width=4),
    clients=Clients(count=4, per_round=3),
    training=Training(batch_size=16),
    aggregator=FedAdam(),
    attack=BadNets(malicious=(1,)),
    defense=replace(DEFENSE, warm_start=True),
    repair=Repair(min_agreement=0, verify=SEARCH),
    engine=InProcessEngine(),
)
"""Everything that is carried: momenta, generators of the defense, the drawing of clients."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_training() -> None:
    train = client.train_client

    def dies(*args: Any, server_round: int, **kwargs: Any) -> Any:
        if server_round == 2:
            die()
        return train(*args, server_round=server_round, **kwargs)

    client.train_client = dies


def in_repair() -> None:
    sanitize, calls = DHBE.sanitize, []

    def dies(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            die()
        return sanitize(*args, **kwargs)

    DHBE.sanitize = dies  # type: ignore[method-assign]


def in_writing_a_line() -> None:
    append = Journal.append

    def dies(self: Journal, record: Any) -> None:
        if record.round == 2:
            with self.path.open("a") as file:
                file.write(record.to_json()[:50])
            die()
        append(self, record)

    Journal.append = dies  # type: ignore[method-assign]


def in_writing_a_checkpoint() -> None:
    """The line of round 2 is there, its checkpoint is half written."""
    replace = Path.replace

    def dies(self: Path, target: Path) -> Any:
        if self.name == "checkpoint.tmp" and target.exists():
            self.write_bytes(self.read_bytes()[:100])
            die()
        return replace(self, target)

    Path.replace = dies  # type: ignore[method-assign, assignment]


def run_and_die(sabotage: Callable[[], None], out: Path) -> None:
    sabotage()
    run_scenario(SCENARIO, out)


def killed(sabotage: Callable[[], None], out: Path) -> Path:
    """Run the scenario in a process of its own that is killed on the way."""
    context = multiprocessing.get_context("forkserver")
    # What a run imports when it needs it, once for all processes.
    late = ["sklearn.datasets", "torch._dynamo", "simulations.federation.server"]
    context.set_forkserver_preload(["simulations.federation.run", *late])
    process = context.Process(target=run_and_die, args=(sabotage, out), daemon=True)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    return out


def lines(out: Path) -> list[dict[str, Any]]:
    """Return rounds.jsonl without the times, which no two runs share."""
    found = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("_seconds")} for line in found]


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    run_scenario(SCENARIO, out)
    return out


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Round 1 is finished, round 2 is not."""
    return killed(in_repair, tmp_path_factory.mktemp("killed") / "out")


@pytest.fixture
def copy(interrupted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(interrupted, tmp_path / "out")


def goes_on_like(uninterrupted: Path, out: Path) -> list[int]:
    """Resume, compare everything with an uninterrupted run, and return the rounds run now."""
    assert not (out / "summary.json").exists()
    told: list[int] = []
    result = resume_run(out, lambda record: told.append(record.round))
    assert [record.round for record in result.records] == [0, 1, 2, 3]
    assert lines(out) == lines(uninterrupted)
    assert names(out) == names(uninterrupted)
    expected = load_file(uninterrupted / "model.safetensors")
    found = load_file(out / "model.safetensors")
    assert all((found[name] == value).all() for name, value in expected.items())
    return told


def test_killed_in_a_repair(uninterrupted: Path, copy: Path) -> None:
    assert goes_on_like(uninterrupted, copy) == [2, 3]


@pytest.mark.parametrize("sabotage", [in_training, in_writing_a_line, in_writing_a_checkpoint])
def test_killed_elsewhere(
    uninterrupted: Path, tmp_path: Path, sabotage: Callable[[], None]
) -> None:
    assert goes_on_like(uninterrupted, killed(sabotage, tmp_path / "out")) == [2, 3]


def test_ended_before_the_first_round(uninterrupted: Path, tmp_path: Path) -> None:
    ResultsFolder.begin(tmp_path / "out", SCENARIO)
    assert goes_on_like(uninterrupted, tmp_path / "out") == [0, 1, 2, 3]


def test_ended_after_the_last_round(
    uninterrupted: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(results, "plot_curves", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            resume_run(copy)
    assert goes_on_like(uninterrupted, copy) == []


def refusal(out: Path) -> str:
    before = {path.name: path.read_bytes() for path in out.iterdir()} if out.exists() else {}
    with pytest.raises(ConfigError) as caught:
        resume_run(out)
    (fault,) = caught.value.faults
    assert before == ({path.name: path.read_bytes() for path in out.iterdir()} if before else {})
    return fault


def test_what_must_not_be_resumed_is_refused_in_one_line(
    uninterrupted: Path, copy: Path, tmp_path: Path
) -> None:
    assert "the run is finished; there is nothing to resume" in refusal(uninterrupted)
    assert "holds no run" in refusal(tmp_path / "nowhere")

    out = copy
    checkpoint, rounds, scenario = out / "checkpoint", out / "rounds.jsonl", out / "scenario.yaml"
    good = {path: path.read_bytes() for path in (checkpoint, rounds, scenario)}

    def refused_with(path: Path, content: bytes) -> str:
        path.write_bytes(content)
        fault = refusal(out)
        path.write_bytes(good[path])
        return fault

    assert "damaged" in refused_with(checkpoint, good[checkpoint][:-9])
    assert "not a checkpoint" in refused_with(checkpoint, b"something else")
    other = good[scenario].replace(b"learning-rate: 0.05", b"learning-rate: 0.06")
    assert "belongs to a run with other settings" in refused_with(scenario, other)
    line = good[rounds].splitlines(keepends=True)
    assert "ends with round 0" in refused_with(rounds, line[0])
    assert "ends with round 4" in refused_with(
        rounds, good[rounds] + line[1].replace(b'"round": 1', b'"round": 4')
    )
    assert "not a round record" in refused_with(rounds, b"{}}\n" + good[rounds])


def test_the_checkpoint_of_another_folder_is_refused(copy: Path) -> None:
    other = SCENARIO.model_copy(update={"seed": 1})
    foreign = CheckpointFile(path=copy / "checkpoint", belongs_to=other.to_yaml())
    mine = CheckpointFile(path=copy / "checkpoint", belongs_to=SCENARIO.to_yaml())
    foreign.write(mine.read())
    assert "belongs to a run with other settings" in refusal(copy)
