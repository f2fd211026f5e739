"""Says how far a long step is and how long it will take: who computes counts, who shows it listens.

Where nobody listens, as in a Flower server, a line goes into the log after some seconds, and then
whenever twice as many have passed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

from fl_defense.log import logger

FIRST_SECONDS = 5.0
"""What is done by then needs no word."""
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a step is.

    Example:
        >>> print(Progress(step="distilling", done=50, total=150, seconds=10))
        distilling, 50 of 150, about 20 s left
    """

    step: str
    """What is done, in a few words."""
    done: int
    """How much of it, of `total`."""
    total: int
    seconds: float
    """Since it began."""

    @property
    def seconds_left(self) -> float | None:
        """How long it will take from now on, if it goes on as it went; None: nobody knows yet."""
        return None if self.done == 0 else self.seconds / self.done * (self.total - self.done)

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {spoken(self.seconds_left)} left"
        return f"{self.step}, {self.done} of {self.total}{left}"


Listener = Callable[[Progress], None]
"""Called at each count; must be quick."""


_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have all counts of this process told to a listener, whatever the thread, and not to the log.

    Example:
        >>> told = []
        >>> with listening(lambda progress: told.append(progress.done)):
        ...     total = sum(counted("adding", [3, 4]))
        >>> total, told
        (7, [0, 1, 2])
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def counting(step: str, total: int) -> Iterator[Callable[[], None]]:
    """Return what is called whenever one more of `total` is done.

    Example:
        >>> told = []
        >>> with listening(lambda each: told.append(str(each))), counting("adding", 1) as one:
        ...     one()
        >>> told
        ['adding, 0 of 1', 'adding, 1 of 1, about 0 s left']
    """
    started, done, told = monotonic(), 0, FIRST_SECONDS

    def tell() -> None:
        nonlocal told
        progress = Progress(step=step, done=done, total=total, seconds=monotonic() - started)
        if _listeners:
            _listeners[-1](progress)
        elif progress.seconds >= told and done < total:
            told = 2 * progress.seconds
            logger.info("%s", progress)

    def one_more() -> None:
        nonlocal done
        done += 1
        tell()

    tell()
    yield one_more


def counted(step: str, items: Sequence[Item]) -> Iterator[Item]:
    """Yield the items of a loop, and tell how far it is.

    Example:
        >>> [2 * number for number in counted("doubling", range(3))]
        [0, 2, 4]
    """
    with counting(step, len(items)) as one_more:
        for item in items:
            yield item
            one_more()


def spoken(seconds: float) -> str:
    """Return a time in the unit that one would say it in.

    Example:
        >>> spoken(8.6), spoken(150), spoken(5400)
        ('9 s', '2 min 30 s', '1 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
