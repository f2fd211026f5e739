"""A newcomer's path: a fresh environment, the wheel alone, outside the checkout.

Takes minutes, so `make test-package` runs it and `make test` does not. Pictures of the report stay in
`results/newcomer` for whoever wants to look at them.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, Browser
from tests.test_extras import WITHOUT_EXTRAS

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "results/newcomer"
pytestmark = pytest.mark.package


def run(*command: str | Path, folder: Path, status: int = 0) -> str:
    """Run a command that knows nothing of this checkout; return what it printed."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in ours},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def installed(wheel: Path, folder: Path, extras: Sequence[str] = ()) -> Path:
    """Make an environment with the wheel in it; return its folder of programs."""
    uv = Path(sys.executable).with_name("uv")
    wanted = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    run(uv, "venv", "--quiet", "--python", sys.executable, "env", folder=folder)
    run(uv, "pip", "install", "--quiet", "--python", "env/bin/python", wanted, folder=folder)
    return folder / "env/bin"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    run(
        Path(sys.executable).with_name("uv"), "build", "--quiet", "--out-dir", out, ROOT, folder=out
    )
    return out


def wheel_of(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


def test_the_source_distribution_holds_the_project_alone(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {Path(name).parts[1] for name in files.getnames() if len(Path(name).parts) > 1}
    assert {"fl_defense", "simulations", "configs", "docs", "tests", "README.md"} <= names
    assert not {"data", "results", ".venv", ".git"} & names
    assert archive.stat().st_size < 3e6


def test_a_server_installs_no_extra(built: Path, tmp_path: Path) -> None:
    programs = installed(wheel_of(built), tmp_path)
    run(programs / "python", "-c", WITHOUT_EXTRAS, folder=tmp_path)
    command = programs / "fl-defense"
    assert "quickstart" in run(command, "list", "scenarios", folder=tmp_path)
    refused = run(command, "run", "quickstart", folder=tmp_path, status=2)
    assert "not installed; pip install 'fl-defense[simulation]'" in refused
    run(command, "init", "mine", folder=tmp_path)
    run(command, "new-app", "my-app", folder=tmp_path)
    assert (tmp_path / "my-app/my_app/server_app.py").exists()


def test_a_newcomer_runs_the_quickstart_and_looks_at_its_report(
    built: Path, tmp_path: Path
) -> None:
    programs = installed(wheel_of(built), tmp_path, ["simulation", "report"])
    command = programs / "fl-defense"
    shown = run(command, "run", "quickstart", "--out", "quickstart", folder=tmp_path)
    assert "last three rounds: accuracy 0.9" in shown
    assert "left out: 4, 6" in shown
    run(command, "report", "quickstart", folder=tmp_path)
    page = tmp_path / "report.html"
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    shutil.copy(page, PICTURES)
    if CHROMIUM is None:
        pytest.skip("no Chromium was found: the report was written and not looked at")
    with Browser() as browser:
        for width in (1280, 400):
            browser.open(page, width=width)
            assert browser.overflow() == 0
            browser.picture(PICTURES / f"report-{width}.png")
        assert browser.errors == []
