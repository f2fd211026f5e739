"""What was changed after a run wrote it is noticed: by show and report, and when it is resumed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from fl_defense.flower.checkpoint import CheckpointFile
from fl_defense.rounds.journal import Journal
from fl_defense.seal import KEY, KEY_FILE, Seal
from simulations.cli.main import app
from simulations.data import Digits
from simulations.engines import InProcessEngine
from simulations.federation.run import run_scenario
from simulations.measurement.seals import journal_of
from simulations.models.small_cnn import SmallCNN
from simulations.scenario.scenario import Clients, Repair, Scenario

SECRET = "a key of sixteen bytes"
SCENARIO = Scenario(
    name="small",
    rounds=3,
    data=Digits(max_train=40, max_test=20),
    model=SmallCNN(width=2),
    clients=Clients(count=2),
    repair=Repair(verify=None),
    engine=InProcessEngine(),
)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class StoppedError(Exception):
    """The run ends here."""


def interrupted_run(out: Path) -> Path:
    """Two rounds are finished, the third one's line lacks its checkpoint."""

    def stops(measured: object) -> None:
        if len((out / "rounds.jsonl").read_text().splitlines()) == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_scenario(SCENARIO, out, stops)
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    run_scenario(SCENARIO, out)
    return out


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return interrupted_run(tmp_path_factory.mktemp("interrupted") / "out")


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, SECRET)
        return interrupted_run(tmp_path_factory.mktemp("keyed") / "out")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def lines_of(folder: Path) -> list[str]:
    return (folder / "rounds.jsonl").read_text().splitlines(keepends=True)


def rewrite(folder: Path, lines: list[str]) -> None:
    (folder / "rounds.jsonl").write_text("".join(lines))


def edited(folder: Path) -> None:
    lines = lines_of(folder)
    rewrite(
        folder, [lines[0], lines[1].replace('"num_rejected": 0', '"num_rejected": 7'), *lines[2:]]
    )


def removed(folder: Path) -> None:
    lines = lines_of(folder)
    rewrite(folder, [lines[0], *lines[2:]])


def reordered(folder: Path) -> None:
    first, second, third, *rest = lines_of(folder)
    rewrite(folder, [first, third, second, *rest])


def put_in(folder: Path) -> None:
    first, second, *rest = lines_of(folder)
    rewrite(folder, [first, second, second, *rest])


def blanks(folder: Path) -> None:
    first, *rest = lines_of(folder)
    rewrite(folder, [first.replace(", ", ",  "), *rest])


def other_scenario(folder: Path) -> None:
    path = folder / "scenario.yaml"
    path.write_text("# nothing else\n" + path.read_text())


CHANGES: list[Callable[[Path], None]] = [edited, removed, reordered, put_in, blanks, other_scenario]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["finished", "interrupted"])
def test_show_says_that_rounds_were_changed(
    change: Callable[[Path], None], kind: str, out: Path, request: pytest.FixtureRequest
) -> None:
    shutil.copytree(request.getfixturevalue(kind), out)
    assert call("show", out).exit_code == 0
    change(out)
    result = call("show", out)
    assert result.exit_code == 3
    assert result.stderr == (
        f"not as written: {out}: rounds.jsonl was changed: its lines are not those that were written\n"
    )


@pytest.mark.parametrize("change", CHANGES)
def test_changed_rounds_are_not_gone_on_with(
    change: Callable[[Path], None], interrupted: Path, out: Path
) -> None:
    shutil.copytree(interrupted, out)
    change(out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    result = call("run", "--resume", out)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "its lines are not those that the checkpoint vouches for" in line
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_line_that_no_checkpoint_vouches_for_is_run_again(interrupted: Path, out: Path) -> None:
    shutil.copytree(interrupted, out)
    *lines, last = lines_of(out)
    rewrite(out, [*lines, last.replace('"num_replies": 2', '"num_replies": 9')])
    assert call("show", out).exit_code == 0
    assert call("run", "--resume", out, "--quiet").exit_code == 0
    assert call("show", out).exit_code == 0
    assert '"num_replies": 9' not in lines_of(out)[-1]


def summary_edited(folder: Path) -> None:
    path = folder / "summary.json"
    path.write_text(path.read_text().replace('"num_rejected": 0', '"num_rejected": 7'))


def unsealed(folder: Path) -> None:
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    del summary["seals"]
    path.write_text(json.dumps(summary))


def other_model(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: torch.zeros_like(value) for name, value in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (summary_edited, "summary.json was changed"),
        (unsealed, "summary.json carries no seals"),
        (other_model, "model.safetensors was changed"),
    ],
)
@pytest.mark.parametrize("command", ["show", "report", "compare"])
def test_a_finished_run_is_sealed_as_a_whole(
    change: Callable[[Path], None], said: str, command: str, finished: Path, out: Path
) -> None:
    shutil.copytree(finished, out)
    change(out)
    page = out.with_name("page.html")
    result = call(command, out, *(["--out", page] if command == "report" else []))
    assert result.exit_code == 3
    assert result.stderr == f"not as written: {out}: {said}\n"
    if command == "report":
        assert f"Not as the run wrote it: {said}." in page.read_text()


def forged(folder: Path, seal: Seal) -> None:
    """Put a checkpoint there that vouches for edited rounds, as whoever holds a key can."""
    edited(folder)
    journal = Journal(folder / "rounds.jsonl", seal, (folder / "scenario.yaml").read_bytes())
    journal.keep(journal.read(dict)[:3])
    mine = CheckpointFile(path=folder / "checkpoint", belongs_to=SCENARIO.to_yaml(),
                          seal=Seal(key=SECRET.encode()))  # fmt: skip
    theirs = CheckpointFile(path=folder / "checkpoint", belongs_to=SCENARIO.to_yaml(),
                            seal=seal, journal=journal)  # fmt: skip
    theirs.write(mine.read())


@pytest.mark.parametrize(
    ("seal", "said"),
    [
        (Seal(), "is not sealed with a key"),
        (Seal(key=b"their own key of many bytes"), "was changed, or sealed with another key"),
    ],
)
def test_with_a_key_nobody_else_can_forge(
    seal: Seal, said: str, keyed: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, SECRET)
    shutil.copytree(keyed, out)
    forged(out, seal)
    for command in (("show", out), ("run", "--resume", out)):
        result = call(*command)
        assert result.exit_code in (2, 3)
        assert said in result.stderr.splitlines()[-1]


def test_who_holds_the_key_goes_on_and_checks(
    keyed: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(keyed, out)
    for command in (("show", out), ("run", "--resume", out)):
        assert "is sealed with a key; give it by FL_DEFENSE_KEY_FILE" in call(*command).stderr
    path = tmp_path / "key"
    path.write_text(SECRET + "\n")
    monkeypatch.setenv(KEY_FILE, str(path))
    assert call("run", "--resume", out, "--quiet").exit_code == 0
    assert call("show", out).exit_code == 0
    seals = json.loads((out / "summary.json").read_text())["seals"]
    assert {value.split(":")[0] for value in seals.values()} == {"hmac-sha256"}
    assert SECRET not in "".join(each.read_text("latin-1") for each in out.iterdir())
    assert journal_of(out, Seal(key=SECRET.encode())).read(dict)[-1].head == seals["rounds"]


def test_a_key_that_cannot_be_read_stops_before_anything_is_written(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_FILE, "/nowhere/key")
    scenario = out.with_name("small.yaml")
    scenario.write_text(SCENARIO.to_yaml())
    result = call("run", scenario, "--out", out)
    assert result.exit_code == 2
    assert "FL_DEFENSE_KEY_FILE: /nowhere/key: cannot be read" in result.stderr
    assert not (out / "scenario.yaml").exists()
