"""Files that a command is to write: looked at before minutes are spent on what goes into them."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated

import typer

Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


def check_output(
    option: str,
    path: Path | None,
    *,
    force: bool,
    suffixes: Collection[str] = (),
    inputs: Iterable[Path] = (),
) -> None:
    """Refuse a place where a command cannot or must not write.

    Args:
        option: as the user gave it: "--out".
        path: the file; None: nothing is to be written.
        force: whether a file that is there may be overwritten.
        suffixes: of which it must have one; empty: any.
        inputs: what the command reads, which is never overwritten.

    Raises:
        ConfigError: with one line.
    """
    from simulations.scenario import ConfigError

    if path is None:
        return
    fault = None
    if suffixes and path.suffix.lower() not in suffixes:
        wanted = ", ".join(suffixes)
        fault = f"must end in one of {wanted}, got {path.suffix or 'no suffix'!r}"
    elif not path.parent.is_dir():
        fault = "its folder is not there; make it first"
    elif path.exists() and not path.is_file():
        fault = "is there and is no file; name another"
    elif any(path.exists() and each.exists() and path.samefile(each) for each in inputs):
        fault = "is what is read; name another file"
    elif path.exists() and not force:
        fault = "is there already; name another file, or overwrite it with --force"
    if fault is not None:
        raise ConfigError([f"{option}: {path}: {fault}"])
