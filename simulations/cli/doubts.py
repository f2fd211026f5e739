"""Says which results folders are not as their runs wrote them."""

from collections.abc import Iterable
from pathlib import Path

import typer

from simulations.cli.terminal import EXIT_SUSPECT, errors, escape


def tell_doubts(folders: Iterable[Path]) -> None:
    """Print a line for each run that was changed after it was written, and exit 3 if one was.

    Call it when everything else is printed or written: what was changed is shown all the same.

    Raises:
        ConfigError: if the key that seals them cannot be had.
    """
    from simulations.measurement.seals import doubts

    found = doubts(folders)
    for line in found:
        errors.print(f"[yellow]not as written:[/yellow] {escape(line)}")
    if found:
        raise typer.Exit(EXIT_SUSPECT)
