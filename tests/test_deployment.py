"""The deployment that docs/deployment.md describes: its commands, and real processes."""

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Result
from torch import nn

from fl_defense.flower.strategy import SanitizingStrategy
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.records import RoundRecord
from fl_defense.rounds.schedule import Schedule
from fl_defense.sanitizers import NoDefense
from simulations.engines.in_process import InProcessGrid
from simulations.federation.run import run_scenario
from simulations.scenario.load import load_scenario

ROOT = Path(__file__).parents[1]


def one_line_each(script: str) -> str:
    """Join continued lines and make every gap one blank."""
    joined = script.replace("\\\n", " ")
    return "\n".join(" ".join(line.split()) for line in joined.splitlines())


def documented_commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/deployment.md").read_text(), re.DOTALL)
    lines = one_line_each("\n".join(blocks)).splitlines()
    plain = [line.partition(" # ")[0] for line in lines]
    return [line.removesuffix(" &") for line in plain if line and not line.startswith("#")]


def test_every_documented_command_is_one_that_the_demo_runs() -> None:
    demo = one_line_each((ROOT / "deploy/demo.sh").read_text())
    makefile = (ROOT / "Makefile").read_text()
    commands = documented_commands()
    assert len(commands) > 8
    for command in commands:
        if command.startswith("make "):
            assert f"\n{command.removeprefix('make ')}:" in makefile
        else:
            assert command in demo, command


class TrainsByOne(ClientApp):
    """Answers with every floating-point array plus one."""

    def __call__(self, message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"].to_torch_state_dict()
        moved = {k: v + 1 if v.is_floating_point() else v for k, v in arrays.items()}
        metrics = MetricRecord({"num-examples": 1})
        content = RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics})
        return Message(content, reply_to=message)


@pytest.mark.parametrize("block", [0, 1])
def test_a_documented_start_of_ones_own(
    block: int, tiny_spec: ModelSpec, tiny_model: nn.Module
) -> None:
    page = (ROOT / "docs/deployment.md").read_text()
    code = re.findall(r"```python\n(class MyServer.*?)```", page, re.DOTALL)[block]
    published: list[ArrayRecord] = []
    names: dict[str, Any] = {
        "SanitizingStrategy": SanitizingStrategy, "ConfigRecord": ConfigRecord, "Result": Result,
        "prepare": lambda: None, "publish": published.append,
    }  # fmt: skip
    exec(code, names)
    records: list[RoundRecord] = []
    server = names["MyServer"](
        FedAvg(fraction_evaluate=0.0),
        NoDefense(),
        tiny_spec,
        device="cpu",
        schedule=Schedule(every=None),
        broadcast="aggregate",
        observe=lambda outcome: records.append(outcome.record),
    )
    initial = ArrayRecord(tiny_model.state_dict())
    result = server.start(InProcessGrid(TrainsByOne(), 2), initial, num_rounds=2)
    assert [record.sanitized for record in records if record.round > 0] == [False, True]
    found = result.arrays.to_torch_state_dict()
    for name, parameter in tiny_model.named_parameters():
        assert torch.allclose(found[name], parameter + 2), name
    assert published == ([result.arrays] if block == 0 else [])


def test_a_start_that_will_not_be_called_is_told(
    tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(FedAvg):
        def start(self, *args: Any, **kwargs: Any) -> Result:
            return Result()

    warned: list[str] = []
    monkeypatch.setattr(
        "fl_defense.flower.strategy.logger.warning",
        lambda text, *parts: warned.append(text % parts),
    )
    SanitizingStrategy(FedAvg(), NoDefense(), tiny_spec, device="cpu")
    assert warned == []
    SanitizingStrategy(Mine(), NoDefense(), tiny_spec, device="cpu")
    assert warned == ["Mine.start is not called; move it into a subclass of SanitizingStrategy"]


def free_ports(number: int) -> int:
    """Return the first of so many ports in a row that nobody uses."""
    for first in range(21000, 30000, number):
        try:
            for port in range(first, first + number):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def deploy(work: Path, **environment: str) -> tuple[str, Path]:
    """Run the demo; return what it printed and its results folder."""
    port = free_ports(6)
    before = flower_processes()
    done = subprocess.run(
        [str(ROOT / "deploy/demo.sh")],
        env={**os.environ, "WORK": str(work), "PORT": str(port), **environment},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nrefused\n" in done.stdout
    assert flower_processes() <= before
    for each in range(port, port + 6):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", each))
    return done.stdout, work / "results"


def flower_processes() -> set[int]:
    return set(_running("flower-superlink", "flower-supernode", "flower-superexec"))


def _running(*names: str) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(Path(os.fsdecode(word)).name in names for word in words[:3]):
            yield int(entry.name)


def lines(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.wire
def test_a_deployment_whose_superlink_is_killed_gives_the_records_of_a_simulation(
    tmp_path: Path,
) -> None:
    printed, results = deploy(tmp_path / "work", CRASH="1")
    assert "\ncome back without registering again\n" in printed
    assert printed.splitlines()[-1] == f"results: {results}"
    simulated = run_scenario(
        load_scenario(ROOT / "configs/scenarios/deployment.yaml"), tmp_path / "simulated"
    )
    found = lines(results)
    assert [line["round"] for line in found] == [record.round for record in simulated.records]
    for line, record in zip(found, simulated.records, strict=True):
        assert line["malicious"] == record.malicious
        assert line["num_replies"] == record.record.num_replies
        assert (line["num_rejected"], line["num_failures"]) == (0, 0)
        assert line["rates"].keys() == record.rates.keys()
        for stage, rates in record.rates.items():
            assert line["rates"][stage] == pytest.approx(rates, abs=0.02)


@pytest.mark.wire
def test_hostile_replies_over_the_wire_are_dropped_counted_and_change_nothing(
    tmp_path: Path,
) -> None:
    _, results = deploy(tmp_path / "work", APP="tests/hostile_app", RUN_CONFIG="")
    _, *rounds = lines(results)
    reasons = [
        "1.weight: holds NaN or Inf",
        "1.weight: must be float32[10, 64], got float32[1, 10, 64]",
        "1.weight: cannot be decoded",
        "num-examples 1e+12 is above 1e+08",
        "unexpected or missing metric 'extra'",
        "",  # a failure's text is Flower's
        "no answer in time",
    ]
    assert len(rounds) == len(reasons)
    for line, reason in zip(rounds, reasons, strict=True):
        (lost,) = line["details"]["lost"]
        assert reason in lost
        assert line["num_replies"] == 2
    assert [line["num_rejected"] for line in rounds] == [1, 1, 1, 1, 1, 0, 0]
    assert [line["num_failures"] for line in rounds] == [0, 0, 0, 0, 0, 1, 1]
    weights = [float(word) for word in (results / "weights.txt").read_text().split()]
    assert weights == [7.0, 7.0]
