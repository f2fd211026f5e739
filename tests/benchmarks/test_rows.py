import subprocess
from pathlib import Path

import pytest

from benchmarks import rows


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own, with one commit, whose code measures."""

    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)

    for folder in ("fl_defense", "simulations", "benchmarks/results", "docs"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_text("one")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    monkeypatch.setattr(rows, "ROOT", tmp_path)
    monkeypatch.setattr(rows, "provenance", rows.provenance.__wrapped__)
    return tmp_path


def test_a_row_tells_the_commit_that_measured_it(checkout: Path) -> None:
    told = rows.provenance()
    assert len(told["commit"]) == 40
    assert told["dirty"] is False


@pytest.mark.parametrize(
    ("path", "dirty"),
    [
        ("fl_defense/file", True),
        ("simulations/new", True),
        ("benchmarks/file", True),
        ("benchmarks/results/file", False),
        ("docs/file", False),
    ],
)
def test_changed_code_is_told_and_changed_results_are_not(
    path: str, dirty: bool, checkout: Path
) -> None:
    (checkout / path).write_text("two")
    assert rows.provenance()["dirty"] is dirty


def test_outside_a_checkout_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert rows.provenance.__wrapped__() == {"commit": None, "dirty": None}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert rows.read(path) is None
    rows.write(path, [{"seed": 0}])
    assert rows.read(path) == [{"seed": 0}]
