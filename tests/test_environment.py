"""Each checkout has an environment of its own: what is tested is what lies beside the tests."""

import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

import fl_defense
import simulations

ROOT = Path(__file__).parents[1]

PYTHON = """#!/bin/sh
# Stands for python3: `python3 -m venv .venv` makes a pip that makes a uv; both note their work.
mkdir -p "$3/bin"
cat > "$3/bin/pip" <<'END'
#!/bin/sh
printf '#!/bin/sh\\necho "$PWD: uv $*" >> "$LOG"; test ! -e "$PWD/broken"' > .venv/bin/uv
chmod +x .venv/bin/uv
case "$*" in *--editable*) echo "$PWD: pip $*" >> "$LOG"; test ! -e "$PWD/broken";; esac
END
chmod +x "$3/bin/pip"
"""
INSTALLED = "--quiet --python .venv/bin/python --editable .[dev]"


class Checkouts:
    """Folders with the project's Makefile, and what `make setup` installs in them."""

    def __init__(self, root: Path) -> None:
        self.root, self.log = root, root / "log"
        self.python = root / "python3"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def clone(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir()
        for file in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / file, folder)
        return folder

    def setup(self, folder: Path) -> tuple[int, list[str]]:
        """Return the exit status and what was installed, a line each: place, program, arguments."""
        self.log.write_text("")
        done = subprocess.run(
            ["make", "setup", f"PYTHON={self.python}"],
            cwd=folder,
            env={**os.environ, "LOG": str(self.log)},
            capture_output=True,
            check=False,
        )
        return done.returncode, self.log.read_text().splitlines()


@pytest.fixture
def checkouts(tmp_path: Path) -> Checkouts:
    return Checkouts(tmp_path)


@pytest.mark.parametrize("package", [fl_defense, simulations], ids=lambda package: package.__name__)
def test_the_tests_import_their_own_checkout(package: ModuleType) -> None:
    assert package.__file__ is not None
    assert Path(package.__file__).resolve().parents[1] == ROOT.resolve()


def test_two_clones_install_themselves_into_themselves(checkouts: Checkouts) -> None:
    for folder in (checkouts.clone("a"), checkouts.clone("b")):
        assert checkouts.setup(folder) == (0, [f"{folder}: uv pip install {INSTALLED}"])
        assert (folder / ".venv").is_dir()
        assert checkouts.setup(folder) == (0, [])


def test_a_copy_does_not_keep_the_environment_of_its_original(checkouts: Checkouts) -> None:
    original = checkouts.clone("original")
    checkouts.setup(original)
    copy = checkouts.root / "copy"
    shutil.copytree(original, copy, symlinks=True)
    assert checkouts.setup(copy) == (0, [f"{copy}: uv pip install {INSTALLED}"])


def test_a_link_to_another_environment_is_replaced_and_the_other_left_alone(
    checkouts: Checkouts,
) -> None:
    other, folder = checkouts.clone("other"), checkouts.clone("folder")
    checkouts.setup(other)
    (folder / ".venv").symlink_to(other / ".venv")
    status, installed = checkouts.setup(folder)
    assert (status, len(installed)) == (0, 1)
    assert not (folder / ".venv").is_symlink()
    assert checkouts.setup(other) == (0, [])


@pytest.mark.parametrize("file", ["Makefile", "pyproject.toml"])
def test_a_changed_project_is_installed_again(file: str, checkouts: Checkouts) -> None:
    folder = checkouts.clone("a")
    checkouts.setup(folder)
    (mark,) = (folder / ".venv").glob("installed-*")
    os.utime(folder / file, (mark.stat().st_mtime + 1,) * 2)
    assert checkouts.setup(folder)[1] == [f"{folder}: uv pip install {INSTALLED}"]


def test_an_installation_that_failed_is_tried_by_pip_and_done_again(checkouts: Checkouts) -> None:
    folder = checkouts.clone("a")
    (folder / "broken").touch()
    status, installed = checkouts.setup(folder)
    assert status != 0
    assert [line.split()[1] for line in installed] == ["uv", "pip"]
    (folder / "broken").unlink()
    assert checkouts.setup(folder) == (0, [f"{folder}: uv pip install {INSTALLED}"])
