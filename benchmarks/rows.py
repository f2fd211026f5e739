"""Rows of measurements in JSON files: read, written at once, and told where they come from."""

import json
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks import RESULTS
from fl_defense.atomic_write import replace_file

ROOT = Path(__file__).parents[1]
CODE = ("fl_defense", "simulations", "benchmarks", ":!benchmarks/results")
"""What a measurement depends on, as git's path patterns."""


@lru_cache
def provenance() -> dict[str, Any]:
    """Return the commit of the code that measures, and whether it was changed since.

    Both are None outside a git checkout. Asked once: what is committed later has not measured.
    """
    commit = _git("rev-parse", "HEAD")
    changes = None if commit is None else _git("status", "--porcelain", "--", *CODE)
    return {"commit": commit, "dirty": None if changes is None else changes != ""}


def read(path: Path) -> Any:
    """Return what was measured before, or None if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write(path: Path, measured: Any) -> None:
    """Write what was measured; an interrupted benchmark keeps what it has written."""
    replace_file(path, (json.dumps(measured, indent=1) + "\n").encode())


def results_of(name: str) -> Any:
    """Return a benchmark's results by its name, or None if it has not been run."""
    return read(RESULTS / f"{name}.json")


def _git(*words: str) -> str | None:
    """Return what git says of this checkout, or None if it says nothing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
