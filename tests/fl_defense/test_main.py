"""The command starts, or says which package of the same name keeps it from starting."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APPLICATION = ROOT / "simulations"


def command(*arguments: str, path: list[Path], start_in: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m fl_defense` with these folders ahead of all that is installed."""
    return subprocess.run(
        [sys.executable, "-m", "fl_defense", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        cwd=start_in,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_package_is_a_command(tmp_path: Path) -> None:
    done = command("--help", path=[ROOT], start_in=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "calibrate" in done.stdout


@pytest.mark.parametrize("name", ["simulations/__init__.py", "simulations.py"])
def test_a_package_that_hides_the_application_is_named_in_one_line(
    name: str, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs" / name
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    place = tmp_path / "theirs" / name.split("/")[0]
    done = command("--help", path=[tmp_path / "theirs", ROOT], start_in=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: package simulations: must be {APPLICATION}, got {place}; rename that one, take "
        f"{place.parent} off PYTHONPATH, or start in another folder\n"
    )


def test_a_folder_of_that_name_without_a_package_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "simulations").mkdir()
    done = command("--help", path=[ROOT], start_in=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
