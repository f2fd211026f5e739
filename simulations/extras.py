"""Packages that only some commands need, and the extra that brings each."""

from collections.abc import Iterable
from importlib.util import find_spec

EXTRAS = {
    "ray": "simulation",
    "torchvision": "simulation",
    "sklearn": "simulation",
    "matplotlib": "simulation",
    "scipy": "simulation",
    "plotly": "report",
    "jinja2": "report",
}
"""Import name -> extra; tests compare it with pyproject.toml."""


def how_to_get(package: str) -> str | None:
    """Return one line on a package that is missing, or None if no extra brings it.

    Args:
        package: what an import asked for, submodules and all.

    >>> how_to_get("sklearn.datasets")
    "sklearn: not installed; pip install 'fl-defense[simulation]'"
    """
    root = package.partition(".")[0]
    return _line([root], EXTRAS[root]) if root in EXTRAS else None


def missing(packages: Iterable[str]) -> list[str]:
    """Return a line for each extra of which one of these packages lacks."""
    lacking = [each for each in packages if find_spec(each) is None]
    extras = dict.fromkeys(EXTRAS[each] for each in lacking)
    return [_line([each for each in lacking if EXTRAS[each] == extra], extra) for extra in extras]


def _line(packages: Iterable[str], extra: str) -> str:
    return f"{', '.join(packages)}: not installed; pip install 'fl-defense[{extra}]'"
