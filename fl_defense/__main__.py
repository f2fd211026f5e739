"""The command `fl-defense`, also `python -m fl_defense`.

The application is the package `simulations`. Other projects have a folder of that name too; on
PYTHONPATH theirs is found first. So the command begins here, where it can still say so.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

APPLICATION = Path(__file__).resolve().parents[1] / "simulations" / "__init__.py"
"""Both packages are installed into one folder."""

EXIT_BAD_INPUT = 2


def main() -> None:
    """Run the command line, or say in one line which package hides it, and exit with 2."""
    fault = application_fault()
    if fault:
        sys.stderr.write(f"error: {fault}\n")
        sys.exit(EXIT_BAD_INPUT)
    from simulations.cli.main import app

    app()


def application_fault() -> str | None:
    """Say why `import simulations` would not import the application; None if it would."""
    spec = find_spec("simulations")
    places = [spec.origin, *(spec.submodule_search_locations or [])] if spec else []
    found = next((Path(place) for place in places if place), None)
    if found is None:
        return f"package simulations: must be {APPLICATION.parent}, got none; install fl-defense"
    if found.resolve() == APPLICATION:
        return None
    other = found.parent if found.name == "__init__.py" else found
    return (
        f"package simulations: must be {APPLICATION.parent}, got {other}; rename that one, take "
        f"{other.parent} off PYTHONPATH, or start in another folder"
    )


if __name__ == "__main__":
    main()
