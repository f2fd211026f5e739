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

from simulations.run import run_scenario
from simulations.scenario import load_scenario

ROOT = Path(__file__).parents[1]


def one_line_each(script: str) -> str:
    """Join continued lines and make every gap one blank."""
    joined = script.replace("\\\n", " ")
    return "\n".join(" ".join(line.split()) for line in joined.splitlines())


def documented_commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/deployment.md").read_text(), re.DOTALL)
    lines = one_line_each("\n".join(blocks)).splitlines()
    return [line.removesuffix(" &") for line in lines if line and not line.startswith("#")]


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
    port = free_ports(5)
    before = flower_processes()
    done = subprocess.run(
        [str(ROOT / "deploy/demo.sh")],
        env={**os.environ, "WORK": str(work), "PORT": str(port), **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nrefused\n" in done.stdout
    assert flower_processes() <= before
    for each in range(port, port + 5):
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
def test_a_deployment_gives_the_records_of_a_simulation(tmp_path: Path) -> None:
    printed, results = deploy(tmp_path / "work")
    assert printed.splitlines()[-1] == f"results: {results}"
    simulated = run_scenario(
        load_scenario(ROOT / "configs/scenarios/deployment.yaml"), tmp_path / "simulated"
    )
    found = lines(results)
    assert [line["round"] for line in found] == [record.round for record in simulated.records]
    for line, record in zip(found, simulated.records, strict=True):
        assert line["malicious"] == record.malicious
        assert line["num_replies"] == record.num_replies
        assert (line["num_rejected"], line["num_failures"]) == (0, 0)
        for rate in ("accuracy", "attack_success_rate", "robust_accuracy", "accuracy_before"):
            assert line[rate] == pytest.approx(getattr(record, rate), abs=0.02)


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
        "num-examples 1e+12 is above the cap of 100",
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
