"""Two processes on one folder: the second is refused, and a dead one is not in the way."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from simulations.data import Digits
from simulations.engines import InProcessEngine
from simulations.federation.run import resume_run, run_scenario
from simulations.measurement.folder_lock import sole_writer
from simulations.models.small_cnn import SmallCNN
from simulations.scenario import ConfigError
from simulations.scenario.scenario import Clients, Repair, Scenario
from simulations.sweep.sweep import Sweep

SCENARIO = Scenario(
    name="small",
    rounds=1,
    data=Digits(max_train=40, max_test=20),
    model=SmallCNN(width=2),
    clients=Clients(count=2),
    repair=Repair(verify=None),
    engine=InProcessEngine(),
)


def hold(folder: Path, told: Connection) -> None:
    with sole_writer(folder, make=True):
        told.send("held")
        signal.pause()


def test_another_process_is_refused_until_it_is_dead(tmp_path: Path) -> None:
    out = tmp_path / "out"
    context = multiprocessing.get_context("forkserver")
    mine, theirs = context.Pipe()
    process = context.Process(target=hold, args=(out, theirs), daemon=True)
    process.start()
    assert mine.poll(60)
    for write in (
        lambda: run_scenario(SCENARIO, out),
        lambda: resume_run(out),
        lambda: Sweep(runs=[], out=out, cores=1).go(),
    ):
        with pytest.raises(ConfigError, match="is being written by another process; wait until"):
            write()
    assert list(out.iterdir()) == []
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    run_scenario(SCENARIO, out)
    assert (out / "summary.json").exists()


def test_a_folder_is_free_again_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), sole_writer(tmp_path / "out", make=True):
            raise ZeroDivisionError
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_folder_is_not_made_unless_asked(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "out"):
        assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match="cannot be written"),
        sole_writer(tmp_path / "file" / "out", make=True),
    ):
        pass
