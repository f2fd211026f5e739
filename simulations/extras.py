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
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
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
    return _line([root], f"fl-defense[{EXTRAS[root]}]") if root in EXTRAS else None


def missing(packages: Iterable[str]) -> list[str]:
    """Return a line for each extra of which one of these packages lacks.

    A package that no extra brings, such as that of somebody's own tracker, is named by itself.
    """
    lacking: dict[str, list[str]] = {}
    for each in packages:
        if find_spec(each) is None:
            wanted = f"fl-defense[{EXTRAS[each]}]" if each in EXTRAS else each
            lacking.setdefault(wanted, []).append(each)
    return [_line(names, wanted) for wanted, names in lacking.items()]


def _line(packages: Iterable[str], wanted: str) -> str:
    return f"{', '.join(packages)}: not installed; pip install '{wanted}'"
