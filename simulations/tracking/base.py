"""What a tracker is: settings from which a run's sink is opened, which is given every round."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

Values = Mapping[str, float]
"""What is known of a round by name, such as `released/accuracy`; docs/how-to/track-runs.md."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a sink is told of a run when it is opened.

    Example:
        >>> run = TrackedRun(name="mine-seed0", folder=Path("results/x"), settings={"seed": 0})
        >>> run.finished
        ()
    """

    name: str
    """Scenario and seed."""
    folder: Path
    """The results folder."""
    settings: Mapping[str, Any]
    """Every field of the scenario by its dotted name."""
    finished: Sequence[tuple[int, Values]] = ()
    """Rounds before the run was interrupted, which a sink was given then; empty in a new run."""


class Sink(Protocol):
    """Takes the rounds of one run. Whatever it raises ends the tracking, never the run."""

    def write(self, server_round: int, values: Values) -> None:
        """Take a round.

        Args:
            server_round: its number; 0 is the initial model.
            values: finite numbers by name; a round lacks what was not measured in it.
        """

    def close(self, *, finished: bool) -> None:
        """End.

        Args:
            finished: whether the run came to its end.
        """


class Tracker(ABC):
    """Where a run is written beside its results folder: a frozen dataclass of settings.

    Example:
        >>> from simulations.tracking import TRACKERS
        >>> TRACKERS["mlflow"](experiment="mine").needs
        ('mlflow',)
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Packages that it imports, which an extra brings: looked for before a run starts."""

    @abstractmethod
    def open(self, run: TrackedRun) -> Sink:
        """Return what takes the rounds of a run.

        It is opened anew when an interrupted run goes on, and is given no round twice but one that
        was not finished.
        """
