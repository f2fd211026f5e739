"""Worker processes give what one process gives, and none outlives the run."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from simulations.attack.a3fl import A3FL
from simulations.data import Digits
from simulations.engines import Engine, InProcessEngine, ProcessesEngine
from simulations.engines.base import EngineError
from simulations.engines.processes import WorkersGrid
from simulations.federation.run import run_scenario
from simulations.models.small_cnn import SmallCNN
from simulations.scenario.scenario import Clients, Repair, Scenario
from simulations.scenario.training import Training
from tests.simulations.engines.clients import Obedient, Unreadable, Unsendable, order

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def grid() -> Iterator[WorkersGrid]:
    grid = WorkersGrid(Obedient(), 4, num_workers=2)
    yield grid
    grid.close()


def answers(grid: Grid, *messages: Message, timeout: float | None = None) -> list[Any]:
    """What each client said: its number, or the reason of its failure."""
    replies = list(grid.send_and_receive(messages, timeout=timeout))
    return [
        reply.error.reason if reply.has_error() else reply.content["answer"]["client"]  # type: ignore[call-overload]
        for reply in replies
    ]


def run_with(engine: Engine, folder: Path) -> tuple[list[Any], bytes]:
    """Attackers remember a trigger from round to round, which the server asks them for."""
    scenario = Scenario(
        name="small",
        rounds=2,
        data=Digits(max_train=120, max_test=40),
        model=SmallCNN(width=2),
        clients=Clients(count=3),
        training=Training(batch_size=16),
        attack=A3FL(malicious=(1,), trigger_steps=2, trigger_batch=8),
        repair=Repair(verify=None),
        engine=engine,
    )
    result = run_scenario(scenario, folder)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if not k.endswith("_seconds")} for line in lines]
    assert [record.rates != {} for record in result.records] == [True] * 3
    return kept, (folder / "model.safetensors").read_bytes()


def test_any_number_of_workers_gives_the_bytes_of_one_process(tmp_path: Path) -> None:
    alone = run_with(InProcessEngine(), tmp_path / "alone")
    assert run_with(ProcessesEngine(workers=1), tmp_path / "one") == alone
    assert run_with(ProcessesEngine(workers=2), tmp_path / "two") == alone


def test_clients_run_side_by_side_and_answer_in_order(grid: WorkersGrid) -> None:
    replies = grid.send_and_receive([order(node, do="sleep", seconds=0.2) for node in (3, 1, 2, 4)])
    said = [reply.content["answer"] for reply in replies]
    assert [each["client"] for each in said] == [2, 0, 1, 3]  # type: ignore[index,call-overload]
    processes = {each["process"] for each in said}  # type: ignore[index,call-overload]
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_weights_pass_by_the_pipe_and_arrive_whole(grid: WorkersGrid) -> None:
    sent = torch.arange(1000.0)
    arrays = ArrayRecord({"w": Array(sent.numpy())})
    messages = [order(node, do="nothing") for node in (1, 2)]
    for message in messages:
        message.content["arrays"] = arrays
    assert answers(grid, *messages) == [0, 1]
    assert grid.sent_bytes == len(arrays["w"].data)


def test_state_of_a_client_stays_whatever_worker_runs_it(grid: WorkersGrid) -> None:
    messages = [order(1, do="count") for _ in range(3)]
    counted = [reply.content["count"]["n"] for reply in grid.send_and_receive(messages)]  # type: ignore[index,call-overload]
    assert counted == [1, 2, 3]
    assert grid.clients_with_state == 1


def test_a_client_that_raises_becomes_an_error_reply(grid: WorkersGrid) -> None:
    assert answers(grid, order(1, do="raise"), order(2, do="exit"), order(3, do="nothing")) == [
        "ValueError: no data", "SystemExit: 3", 2,
    ]  # fmt: skip


def test_a_killed_client_is_run_again_and_fails_the_third_time(
    grid: WorkersGrid, tmp_path: Path
) -> None:
    once = order(1, do="die once", mark=str(tmp_path / "mark"))
    assert answers(grid, once, order(2, do="die"), order(3, do="nothing")) == [
        0,
        "its process ended each time that it ran (SIGKILL, SIGKILL, SIGKILL)",
        2,
    ]
    assert answers(grid, *(order(node, do="nothing") for node in (1, 2, 3, 4))) == [0, 1, 2, 3]


def test_a_client_that_takes_too_long_has_no_reply_and_blocks_nobody(grid: WorkersGrid) -> None:
    slow = order(1, do="sleep", seconds=3600.0)
    assert answers(grid, slow, order(2, do="nothing"), timeout=0.5) == [1]
    assert answers(grid, order(1, do="nothing")) == [0]


def test_an_idle_worker_that_is_killed_is_replaced(grid: WorkersGrid) -> None:
    (reply,) = grid.send_and_receive([order(1, do="nothing")])
    os.kill(int(reply.content["answer"]["process"]), signal.SIGKILL)  # type: ignore[index,call-overload]
    assert answers(grid, *(order(node, do="nothing") for node in (1, 2, 3))) == [0, 1, 2]


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), KeyboardInterrupt()])
def test_no_worker_outlives_what_the_server_raises(error: BaseException) -> None:
    app, found = ServerApp(), []

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive([order(1, do="nothing")])
        found.append(int(reply.content["answer"]["process"]))  # type: ignore[index,call-overload]
        raise error

    with pytest.raises(type(error)):
        ProcessesEngine(workers=2).run(app, Obedient(), 2, CPU)
    assert not is_there(found[0])


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def serve_until_killed(pipe: Connection) -> None:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive([order(1, do="nothing")])
        pipe.send(int(reply.content["answer"]["process"]))  # type: ignore[index,call-overload]
        list(grid.send_and_receive([order(1, do="sleep", seconds=3600.0)]))

    ProcessesEngine(workers=1).run(app, Obedient(), 1, CPU)


@pytest.mark.wire
def test_no_worker_outlives_a_server_that_is_killed() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve_until_killed, args=(theirs,))
    server.start()
    theirs.close()
    worker = ours.recv()
    server.kill()
    server.join()
    until = time.monotonic() + 60
    while is_there(worker):
        assert time.monotonic() < until
        time.sleep(0.01)


def run_app(app: ClientApp) -> None:
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        list(grid.send_and_receive([Message(RecordDict(), 1, "train")]))

    ProcessesEngine(workers=1).run(server, app, 1, CPU)


def test_clients_that_no_other_process_can_have_are_refused_in_one_line() -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(EngineError, match=r"cannot be sent .*TypeError: holds an open file.*; use"):
        run_app(Unsendable())
    with pytest.raises(EngineError, match=r"cannot run clients \(ValueError: .*; what a scenario"):
        run_app(Unreadable())
    assert set(multiprocessing.active_children()) == before


@pytest.mark.parametrize(
    ("engine", "device", "expected"),
    [
        (ProcessesEngine(workers=3), "cpu", 3),
        (ProcessesEngine(), "cpu", 5),
        (ProcessesEngine(cpus_per_client=2), "cpu", 2),
        (ProcessesEngine(cpus_per_client=9), "cpu", 1),
        (ProcessesEngine(), "cuda", 1),
    ],
)
def test_there_are_as_many_workers_as_the_cores_bear(
    engine: ProcessesEngine, device: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.engines.processes.available_cores", lambda: 5)
    assert engine.num_workers(torch.device(device)) == expected


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        ProcessesEngine(workers=0)
