"""Hands the rounds of a run to the trackers that its scenario names; none of them can stop it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fl_defense.log import logger
from fl_defense.validation import one_line
from simulations.measurement.finished_runs import flat
from simulations.measurement.measured_round import MeasuredRound
from simulations.scenario.scenario import Scenario
from simulations.scenario.tables import TRACKER
from simulations.tracking import Sink, TrackedRun

OF_THE_SERVER = (
    "num_replies",
    "num_rejected",
    "num_left_out",
    "num_failures",
    "sanitized",
    "accepted",
    "agreement",
    "train_seconds",
    "screen_seconds",
    "sanitize_seconds",
    "verify_seconds",
)
"""Keys of the server's record that a tracker is given."""


class Tracking:
    """The sinks of a run.

    Args:
        scenario: the experiment, which names the trackers.
        folder: the results folder.
        finished: rounds of the same run before it was interrupted.
    """

    def __init__(
        self, scenario: Scenario, folder: Path, finished: Sequence[MeasuredRound] = ()
    ) -> None:
        run = TrackedRun(
            name=f"{scenario.name}-seed{scenario.seed}",
            folder=folder,
            settings=dict(flat(scenario.model_dump(mode="json", by_alias=True))),
            finished=[(each.round, dict(values_of(each))) for each in finished],
        )
        self._sinks: dict[int, Sink] = {}
        self._trackers = scenario.tracking
        for place, tracker in enumerate(self._trackers):
            with self._going_on_without(place):
                self._sinks[place] = tracker.open(run)

    def write(self, measured: MeasuredRound) -> None:
        """Hand on a round."""
        values = dict(values_of(measured))
        for place, sink in list(self._sinks.items()):
            with self._going_on_without(place):
                sink.write(measured.round, values)

    def close(self, *, finished: bool) -> None:
        """End all sinks."""
        for place, sink in list(self._sinks.items()):
            with self._going_on_without(place):
                sink.close(finished=finished)
        self._sinks.clear()

    @contextmanager
    def _going_on_without(self, place: int) -> Iterator[None]:
        """Ask a tracker that fails no more; one line of it goes into the log."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - anybody's tracker may raise anything
            self._sinks.pop(place, None)
            logger.warning(
                "tracking: %s failed (%s); the run goes on without it, and its results folder "
                "holds every round",
                TRACKER.write(self._trackers[place])["name"],
                one_line(error),
            )


@contextmanager
def tracked(
    scenario: Scenario, folder: Path, finished: Sequence[MeasuredRound] = ()
) -> Iterator[Tracking]:
    """Track a run while the block lasts; an exception that leaves it says that the run failed."""
    tracking = Tracking(scenario, folder, finished)
    try:
        yield tracking
    except BaseException:
        tracking.close(finished=False)
        raise
    tracking.close(finished=True)


def values_of(measured: MeasuredRound) -> Iterator[tuple[str, float]]:
    """Yield what trackers are given of a round: rates by stage, then what the server counted.

    Example:
        >>> from fl_defense.rounds.records import RoundRecord
        >>> rates = {"released": {"accuracy": 0.5}}
        >>> found = dict(values_of(MeasuredRound(record=RoundRecord(round=1), rates=rates)))
        >>> found["released/accuracy"], found["server/num_left_out"], "server/agreement" in found
        (0.5, 0.0, False)
    """
    for stage, rates in measured.rates.items():
        yield from ((f"{stage}/{metric}", float(rate)) for metric, rate in rates.items())
    if len(measured.backdoors) > 1:
        for number, by_stage in enumerate(measured.backdoors):
            for stage, rates in by_stage.items():
                for metric, rate in rates.items():
                    yield f"backdoor.{number}/{stage}/{metric}", float(rate)
    for key in OF_THE_SERVER:
        value = getattr(measured.record, key)
        if value is not None:
            yield f"server/{key}", float(value)
    anomaly = measured.record.details.get("anomaly")
    if isinstance(anomaly, float | int) and math.isfinite(anomaly):
        yield "server/anomaly", float(anomaly)
    yield "server/evaluate_seconds", float(measured.evaluate_seconds)
