"""Says how far a command is: a line that changes on a terminal, plain lines in a file or a pipe."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic

from rich.console import Console
from rich.status import Status

from fl_defense.progress import FIRST_SECONDS, Progress, listening, spoken
from simulations.cli.terminal import console, errors, escape

LOOKS = 0.5
"""Seconds between two looks at how far it is, on a terminal."""


class Now:
    """What is going on at the moment.

    Args:
        what: in a few words.
    """

    def __init__(self, what: str) -> None:
        self._what, self._started = what, monotonic()
        self._left: float | None = None
        self._counted: Progress | None = None

    def begin(self, what: str, seconds_left: float | None = None) -> None:
        """Say what is going on from now on, and how long all of it will take from here."""
        self._what, self._left, self._counted = what, seconds_left, None

    def count(self, progress: Progress) -> None:
        """Listen to what counts its steps."""
        # Of one step alone there is nothing to tell but that it is going on.
        self._counted = progress if 1 < progress.total > progress.done else None

    def said(self, seconds: float | None = None) -> str:
        """Return all of it in a line.

        Args:
            seconds: since the beginning; None: as the clock says.
        """
        passed = monotonic() - self._started if seconds is None else seconds
        line = f"{self._what}, {passed:.0f} s"
        if self._left is not None:
            line += f", about {spoken(self._left)} left"
        return line if self._counted is None else f"{line}: {self._counted}"


class Rounds:
    """How far a run is.

    Args:
        total: rounds of the run.

    Example:
        >>> rounds = Rounds(3)
        >>> rounds.after(0)
        ('round 1 of 3', None)
        >>> rounds.after(3)
        ('writing the results', None)
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._first: tuple[int, float] | None = None

    def after(self, server_round: int) -> tuple[str, float | None]:
        """Return what follows a round, and how many seconds all that follows will take.

        None after the first round that is told of, whose beginning nobody has seen.
        """
        if server_round == self._total:
            return "writing the results", None
        what, time = f"round {server_round + 1} of {self._total}", monotonic()
        if self._first is None:
            self._first = server_round, time
            return what, None
        first, started = self._first
        return what, (time - started) / (server_round - first) * (self._total - server_round)


@contextmanager
def waiting(what: str, first_seconds: float = FIRST_SECONDS) -> Iterator[Now]:
    """Show what is going on, for how long it has been, how far it is, and how long it will take.

    Where there is no terminal, a line comes on the error channel after some seconds, and then
    whenever twice as many have passed.

    Args:
        what: in a few words.
        first_seconds: what is done by then needs no line.
    """
    now, done = Now(what), Event()
    # Beside what is printed: two consoles on one terminal would write over each other.
    terminal = next((each for each in (console, errors) if each.is_terminal), None)
    if terminal is None:
        teller = Thread(target=_tell, args=(now, first_seconds, done), daemon=True)
    else:
        teller = Thread(target=_show, args=(now, terminal, done), daemon=True)
    teller.start()
    try:
        with listening(now.count):
            yield now
    finally:
        done.set()
        teller.join()


def _tell(now: Now, seconds: float, done: Event) -> None:
    passed = step = seconds
    while not done.wait(step):
        errors.print(now.said(passed), markup=False)
        step, passed = passed, 2 * passed


def _show(now: Now, terminal: Console, done: Event) -> None:
    with Status(escape(now.said()), console=terminal) as status:
        while not done.wait(LOOKS):
            status.update(escape(now.said()))
