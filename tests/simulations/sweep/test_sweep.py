import json
from pathlib import Path
from typing import Any

import pytest

from simulations.scenario import ConfigError
from simulations.sweep.plan import read_plan
from simulations.sweep.sweep import Finished, Sweep, check_runs

SCENARIO = """
name: small
data: {name: digits}
attack: {name: badnets}
"""
PLAN = """
scenario: small.yaml
set: {rounds: 4}
grid:
  seed: [0, 1]
  defense: [{name: none}, {name: dhbe, iterations: 5}]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SCENARIO)
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path / "plan.yaml"


def finishes(sweep: Sweep, commands: list[list[str]], failing: tuple[int, ...] = ()) -> Any:
    """Stand in for the process of a run."""

    def call(command: list[str]) -> tuple[int, str]:
        commands.append(command)
        if len(commands) in failing:
            return 1, "first line\nfailed: round 1: no client is left"
        folder = Path(command[-1])
        folder.mkdir(exist_ok=True)
        (folder / "summary.json").write_text(json.dumps({"seed": 0}))
        return 0, ""

    return call


def test_every_combination_is_a_run(plan: Path) -> None:
    runs = read_plan(plan)
    assert [run.label for run in runs] == [
        "seed=0, defense={name: none}",
        "seed=0, defense={name: dhbe, iterations: 5}",
        "seed=1, defense={name: none}",
        "seed=1, defense={name: dhbe, iterations: 5}",
    ]
    assert [run.scenario.seed for run in runs] == [0, 0, 1, 1]
    assert {run.scenario.rounds for run in runs} == {4}
    assert len({run.key for run in runs}) == 4


def test_where_else_a_run_is_written_makes_no_other_run_of_it(plan: Path) -> None:
    keys = [run.key for run in read_plan(plan)]
    plan.write_text(PLAN.replace("rounds: 4", "rounds: 4, tracking: csv"))
    assert [run.key for run in read_plan(plan)] == keys


def test_a_grown_plan_runs_what_is_new_alone(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, commands, told = plan.parent / "out", [], []

    def tell(finished: Finished, left: int) -> None:
        told.append((finished.run.chosen["seed"], left))

    for seeds, expected in (("[0, 1]", 4), ("[0, 1, 2]", 6)):
        plan.write_text(PLAN.replace("[0, 1]", seeds))
        sweep = Sweep(runs=read_plan(plan), out=out, cores=1, tell=tell)
        monkeypatch.setattr(sweep, "_call", finishes(sweep, commands))
        assert sweep.go() == []
        assert len(commands) == expected
        lines = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
        assert len(lines) == expected
        assert lines[-1]["summary"] == {"seed": 0}
    assert told[3:] == [(1, 0), (2, 1), (2, 0)]


def test_a_failure_is_told_at_the_end_and_is_run_again(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, commands = plan.parent / "out", []
    sweep = Sweep(runs=read_plan(plan), out=out, cores=1)
    monkeypatch.setattr(sweep, "_call", finishes(sweep, commands, failing=(2,)))
    (failed,) = sweep.go()
    assert failed.error is not None
    assert failed.error.endswith("no client is left")
    lines = [json.loads(line)["status"] for line in (out / "runs.jsonl").read_text().splitlines()]
    assert lines == ["finished", "failed", "finished", "finished"]
    again = Sweep(runs=read_plan(plan), out=out, cores=1)
    assert [run.label for run in again.waiting] == [failed.run.label]


def test_an_interrupted_run_is_resumed(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, out, commands = read_plan(plan), plan.parent / "out", []
    for run, name in zip(runs, ("rounds.jsonl", "scenario.yaml"), strict=False):
        (out / run.key).mkdir(parents=True)
        (out / run.key / name).write_text("")
    sweep = Sweep(runs=runs[:2], out=out, cores=1)
    monkeypatch.setattr(sweep, "_call", finishes(sweep, commands))
    sweep.go()
    assert commands[0][-2:] == ["--resume", str(out / runs[0].key)]
    # Before its first round nothing is worth keeping.
    assert commands[1][-2:] == ["--out", str(out / runs[1].key)]
    assert not (out / runs[1].key / "scenario.yaml").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "scenario: none.yaml\ngrid: {seed: [0]}",
            "none.yaml: is neither a file nor a scenario that ships",
        ),
        ("scenario: small.yaml\ngrid: {}", r"plan.yaml: grid"),
        ("scenario: small.yaml\ngrid: {seed: 3}", r"plan.yaml: grid.seed"),
        ("scenario: small.yaml\ngrid: {sede: [0]}", "sede: unknown key; did you mean 'seed'"),
        ("scenario: small.yaml\ngrid: {seed: [0, 0]}", "seed=0 and seed=0 are one run"),
        ("scenario: small.yaml\ngird: {seed: [0]}", "gird"),
        ("- 1", "must be a mapping with scenario and grid"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(plan: Path, text: str, message: str) -> None:
    plan.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_plan(plan)


def test_every_run_is_tried_before_the_first_starts(plan: Path) -> None:
    tried = []

    def check(scenario: Any) -> None:
        tried.append(scenario.seed)
        if scenario.seed == 1:
            raise ConfigError(["partition: too few images"])

    with pytest.raises(ConfigError) as caught:
        check_runs(read_plan(plan), check)
    assert tried == [0, 0, 1, 1]
    assert len(caught.value.faults) == 2
    assert caught.match("seed=1, defense={name: none}: partition: too few images")
