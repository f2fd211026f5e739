"""A Ray cluster that runs already is joined, used, and left as it was."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from simulations.data import Digits
from simulations.engines import InProcessEngine, RayEngine
from simulations.engines.base import EngineError
from simulations.federation.run import run_scenario
from simulations.models.small_cnn import SmallCNN
from simulations.scenario.scenario import Clients, Repair, Scenario

SCENARIO = Scenario(
    name="small",
    rounds=1,
    data=Digits(max_train=40, max_test=20),
    model=SmallCNN(width=2),
    clients=Clients(count=2, timeout_seconds=120),
    repair=Repair(verify=None),
    engine=InProcessEngine(),
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    head = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=1",
         f"--port={port}", f"--ray-client-server-port={free_port()}", "--node-ip-address=127.0.0.1",
         "--include-dashboard=false", "--disable-usage-stats"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not answers(port):
        assert time.monotonic() < until
        assert head.poll() is None
        time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    head.terminate()
    head.wait(60)


def answers(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.ray
@pytest.mark.wire
def test_clients_run_on_a_cluster_that_stays(address: str, tmp_path: Path) -> None:
    joined = SCENARIO.model_copy(update={"engine": RayEngine(address=address)})
    result = run_scenario(joined, tmp_path / "cluster")
    assert not ray.is_initialized()
    assert answers(int(address.rpartition(":")[2]))
    alone = run_scenario(SCENARIO, tmp_path / "alone")
    weights = [(each.folder / "model.safetensors").read_bytes() for each in (result, alone)]
    assert weights[0] == weights[1]


def test_where_nobody_answers_one_line_says_so(tmp_path: Path) -> None:
    nowhere = RayEngine(address=f"127.0.0.1:{free_port()}")
    with pytest.raises(EngineError, match=r"^engine\.address: no Ray cluster can be joined at 127"):
        run_scenario(SCENARIO.model_copy(update={"engine": nowhere}), tmp_path / "out")
