"""Files from anybody, given to each command that reads such files.

None gives a traceback, runs code or is taken in silence: one line each says what is wrong.
"""

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fl_defense.seal import KEY_FILE
from simulations.cli.main import app
from simulations.federation.run import run_scenario
from simulations.measurement.measured_round import MeasuredRound
from simulations.scenario.load import load_scenario
from tests.simulations.cli.hostile_folders import (
    CHECKPOINT,
    KEYS,
    PLANS,
    ROUNDS,
    SCENARIO,
    SUMMARY,
)
from tests.simulations.cli.hostile_models import FORM, TORCH, model_files

MODELS = {f"{suffix}: {name}": (suffix, write) for name, suffix, write in model_files()}


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: str | Path) -> list[str]:
    """Call a command that must refuse; return what it says."""
    result = call(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2), (result.exit_code, result.output)
    lines = result.stderr.splitlines()
    assert lines
    assert all(line.startswith(("error: ", "failed: ")) for line in lines), lines
    assert all(len(line) < 1500 and line.isprintable() for line in lines), lines
    return lines


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("command", ["inspect", "evaluate", "repair"])
def test_model_files(kind: str, command: str, tmp_path: Path) -> None:
    suffix, write = MODELS[kind]
    path = tmp_path / f"model{suffix}"
    write(path)
    options: dict[str, tuple[str | Path, ...]] = {
        "inspect": FORM,
        "evaluate": (*FORM[:2], "--data", "{name: digits, max-train: 10, max-test: 10}"),
        "repair": (*FORM, "--defense", "clp", "--out", tmp_path / "out.safetensors"),
    }
    (line,) = refused(command, path, *options[command])
    assert str(path) in line
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "out.safetensors").exists()


SCENARIO_TEXT = """
name: small
rounds: 2
data: {name: digits, max-train: 40, max-test: 20}
model: {name: small-cnn, width: 2}
clients: {count: 2}
repair: {verify: null, schedule: {on-suspicion: 0.1}}
engine: {name: in-process}
"""


class StoppedError(Exception):
    """The run ends here."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_until(None, tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_until(2, tmp_path_factory.mktemp("interrupted"))


def run_until(last: int | None, folder: Path) -> Path:
    scenario = folder / "small.yaml"
    scenario.write_text(SCENARIO_TEXT)

    def stop(measured: MeasuredRound) -> None:
        if measured.round == last:
            raise StoppedError

    with nullcontext() if last is None else pytest.raises(StoppedError):
        run_scenario(load_scenario(scenario), folder / "out", stop)
    return folder / "out"


def told(*arguments: str | Path) -> None:
    """Call a command that must refuse or say that something is not as it was written."""
    result = call(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2, 3), (result.exit_code, result.output)
    lines = result.stderr.splitlines()
    assert lines
    assert all(line.startswith(("error: ", "failed: ", "not as written: ")) for line in lines), (
        lines
    )
    assert all(len(line) < 1500 and line.isprintable() for line in lines), lines


FINISHED = {
    **{f"rounds: {name}": change for name, change in ROUNDS.items()},
    **{f"summary: {name}": change for name, change in SUMMARY.items()},
    **{f"scenario: {name}": change for name, change in SCENARIO.items()},
}
INTERRUPTED = {
    **{f"rounds: {name}": change for name, change in ROUNDS.items()},
    **{f"scenario: {name}": change for name, change in SCENARIO.items()},
    **{f"checkpoint: {name}": change for name, change in CHECKPOINT.items()},
}


@pytest.mark.parametrize("kind", FINISHED)
def test_results_folders(
    kind: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = shutil.copytree(finished, tmp_path / "out")
    FINISHED[kind](out)
    for command in ("show", "compare", "calibrate"):
        told(command, out)
    told("report", out, "--out", tmp_path / "page.html")
    assert not (tmp_path / "made").exists()
    if (tmp_path / "page.html").exists():
        assert "<script>alert" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("kind", INTERRUPTED)
def test_interrupted_runs(
    kind: str, interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = shutil.copytree(interrupted, tmp_path / "out", symlinks=True)
    INTERRUPTED[kind](out)
    refused("run", "--resume", out)
    told("show", out)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", SCENARIO)
def test_scenarios(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO_TEXT.replace("name: small\n", "name: small\nseed: 0\n"))
    SCENARIO[kind](tmp_path)
    refused("run", path, "--dry-run")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", SCENARIO)
def test_scenarios_beside_models(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in ("missing", "a folder"):
        pytest.skip("there is none")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO_TEXT.replace("name: small\n", "name: small\nseed: 0\n"))
    TORCH["nan"](tmp_path / "model.pt")
    SCENARIO[kind](tmp_path)
    for command in (["inspect"], ["evaluate"], ["repair", "--defense", "clp", "--out", "x.pt"]):
        refused(*command, "model.pt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", PLANS)
def test_plans(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SCENARIO_TEXT)
    (tmp_path / "plan.yaml").write_text(PLANS[kind])
    refused("sweep", "plan.yaml", "--out", "runs")
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", KEYS)
def test_keys(kind: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_bytes(KEYS[kind])
    monkeypatch.setenv(KEY_FILE, str(tmp_path / "key"))
    (line,) = refused("show", finished)
    assert KEY_FILE in line
