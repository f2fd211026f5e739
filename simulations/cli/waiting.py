"""Says that time passes: a clock on a terminal, plain lines in a file or a pipe."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from simulations.cli.terminal import errors

FIRST_SECONDS = 5.0
"""What is done by then needs no word."""


@contextmanager
def waiting(what: str, first_seconds: float = FIRST_SECONDS) -> Iterator[None]:
    """Show on the error channel for how long something has been going on.

    Where there is no terminal, a line comes after some seconds, and then whenever twice as many
    have passed.
    """
    if errors.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=errors, transient=True) as progress:
            progress.add_task(what)
            yield
        return
    done = Event()
    teller = Thread(target=_tell, args=(what, first_seconds, done), daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _tell(what: str, seconds: float, done: Event) -> None:
    passed = step = seconds
    while not done.wait(step):
        errors.print(f"{what}, {passed:.0f} s", markup=False)
        step, passed = passed, 2 * passed
