"""What ships with the application to be run by name or copied: scenarios, plans, a Flower app.

In a checkout these files lie beside the packages; a wheel holds them inside this one.
"""

import re
from pathlib import Path

_INSTALLED = Path(__file__).parent / "shipped_files"
_CHECKOUT = Path(__file__).parents[1]
CONFIGS = _INSTALLED / "configs" if _INSTALLED.exists() else _CHECKOUT / "configs"
"""Folder of scenarios, plans, defense files and the schema."""
APP = _INSTALLED / "drop_in" if _INSTALLED.exists() else _CHECKOUT / "examples/drop_in"
"""Folder of a stock Flower app with a defended server."""


def scenarios() -> dict[str, Path]:
    """Return the scenarios that ship, by name."""
    return _by_name(CONFIGS / "scenarios")


def plans() -> dict[str, Path]:
    """Return the plans of sweeps that ship, by name."""
    return _by_name(CONFIGS / "sweeps")


def _by_name(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def purpose(path: Path) -> str:
    """Return the first sentence of the comment at a file's head."""
    lines = re.findall(r"^# ?(.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    comment = " ".join(line for line in lines if not line.startswith("yaml-language-server"))
    return re.split(r"(?<=\.) ", comment.strip())[0]
