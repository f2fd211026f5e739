"""Nothing that is there is overwritten without a word, least of all what is read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from simulations.cli.main import app
from simulations.models.small_cnn import SmallCNN

FORM = ("--model", "{name: small-cnn, width: 4}", "--input-shape", "1,8,8", "--classes", "3")
REPAIR = ("--defense", "{name: clp, threshold: 50}", "--set", "verify=null", *FORM)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(SmallCNN(width=4).build((1, 8, 8), 3).state_dict(), path)
    return path


Command = Callable[[Path, Path], tuple[str | Path, ...]]
COMMANDS: dict[str, tuple[Command, str]] = {
    "repair": (lambda model, out: ("repair", model, "--out", out, *REPAIR), "x.safetensors"),
    "inspect": (lambda model, out: ("inspect", model, "--picture", out, *FORM), "x.png"),
    "report": (lambda model, out: ("report", model.parent, "--out", out), "x.html"),
}


def refusal(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_there_is_kept_until_forced(command: str, model: Path, tmp_path: Path) -> None:
    words, name = COMMANDS[command]
    out = tmp_path / "out" / name
    assert "its folder is not there; make it first" in refusal(*words(model, out))
    out.parent.mkdir()
    out.write_text("mine")
    assert "is there already; name another file, or overwrite it with --force" in refusal(
        *words(model, out)
    )
    assert out.read_text() == "mine"
    assert "must end in one of" in refusal(*words(model, out.with_suffix(".txt")))
    folder = out.with_stem("folder")
    folder.mkdir()
    assert "is there and is no file" in refusal(*words(model, folder), "--force")


def test_force_overwrites(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    out.write_text("mine")
    result = call("repair", model, "--out", out, "--force", *REPAIR)
    assert result.exit_code == 0, result.output
    assert len(out.read_bytes()) == len(model.read_bytes())


def test_what_is_read_is_never_overwritten(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    link = tmp_path / "link.safetensors"
    link.symlink_to(model)
    for out in (model, link, model.parent / "." / model.name):
        assert "is what is read" in refusal("repair", model, "--out", out, "--force", *REPAIR)
    assert model.read_bytes() == before
