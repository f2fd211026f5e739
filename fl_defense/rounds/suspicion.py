"""When is a round's inspection an alarm? Compared with the past, or with a calibrated bound.

A single model is judged by a bound: `calibrated_bound` takes it from models that are known to be
benign, and for `TriggerSearch` docs/methods/trigger-search.md names one. A federation has its own
past, too: `AnomalyHistory` is our rule for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from torch import nn

from fl_defense.inspections import Finding, Inspection, TriggerSearch
from fl_defense.model.spec import ModelSpec
from fl_defense.state import State
from fl_defense.validation import require, require_positive

MAD_TO_DEVIATION = 1.4826
"""A normal distribution's standard deviation in units of its median absolute deviation."""
SMALLEST_ANOMALY = 1e-3
"""Anomalies below this count as this, for their logarithm."""
SMALLEST_SPREAD = 0.1
"""Least standard deviation of the logarithm of quiet rounds: a still past is not a precise one."""


@dataclass(frozen=True, kw_only=True)
class SuspicionRule:
    """When a round's inspection is an alarm: against a calibrated bound, or against the past.

    What an inspection calls certain is an alarm always. For the rest, the bound comes from benign
    runs of the same task, see `calibrated_bound`. Without it, the past decides: the logarithm of
    the anomaly lies `deviations` robust standard deviations above the median of the quiet rounds
    before, and 2 of the last 3 rounds suspect the same class.
    """

    bound: float | None = None
    """Anomaly above which a round is an alarm at once; None: the past alone decides."""
    deviations: float = 3.5
    """Robust standard deviations above the median of quiet rounds."""
    window: int = 20
    """Quiet rounds that are remembered."""
    fewest: int = 4
    """Quiet rounds that it takes to compare with; before, the past raises no alarm."""

    def __post_init__(self) -> None:
        require_positive(self, "deviations")
        if self.fewest < 2 or self.window < self.fewest:
            raise ValueError(
                f"fewest must be at least 2 and window at least fewest, got {self.fewest} and "
                f"{self.window}"
            )


@dataclass
class AnomalyHistory:
    """The inspections of a federation's rounds so far, and whether the last was an alarm."""

    alarm: SuspicionRule
    """When to raise it."""
    quiet: list[float] = field(default_factory=list)
    """Logarithms of the anomalies of rounds without alarm, oldest first."""
    suspected: list[int] = field(default_factory=list)
    """Suspected classes of the last three rounds."""

    def add(self, found: Finding) -> bool:
        """Take in a round's inspection; return whether it is an alarm.

        A round with an alarm does not become part of the past that later rounds are compared with.

        Raises:
            ValueError: if the anomaly is not finite.
        """
        if not math.isfinite(found.anomaly):
            raise ValueError(f"the anomaly is {found.anomaly}, which compares with nothing")
        logarithm = math.log(max(found.anomaly, SMALLEST_ANOMALY))
        self.suspected = [*self.suspected[-2:], found.suspected_class]
        stands_out = self._above_bound(found.anomaly) or self._stands_out(logarithm)
        alarmed = found.is_certain or stands_out
        if not alarmed:
            self.quiet = [*self.quiet, logarithm][-self.alarm.window :]
        return alarmed

    def _above_bound(self, anomaly: float) -> bool:
        return self.alarm.bound is not None and anomaly > self.alarm.bound

    def _stands_out(self, logarithm: float) -> bool:
        if self.alarm.bound is not None or len(self.quiet) < self.alarm.fewest:
            return False
        center = median(self.quiet)
        spread = MAD_TO_DEVIATION * median(abs(value - center) for value in self.quiet)
        again = self.suspected.count(self.suspected[-1]) >= 2
        return again and logarithm - center > self.alarm.deviations * max(spread, SMALLEST_SPREAD)


def calibrated_bound(benign: Sequence[float], false_positive_rate: float = 0.05) -> float:
    """Return the anomaly that this share of benign models exceeds.

    Args:
        benign: anomalies of models of the same task, trained without attackers.
        false_positive_rate: share of benign models that may raise an alarm, in (0, 1).

    Raises:
        ValueError: if the rate is none, or there are too few models for it.
    """
    rate = false_positive_rate
    require(0 < rate < 1, "false_positive_rate", "in (0, 1)", rate)
    if len(benign) * rate < 1:
        raise ValueError(
            f"a false-positive rate of {rate} needs at least {math.ceil(1 / rate)} benign models, "
            f"got {len(benign)}; take more"
        )
    above = int(len(benign) * false_positive_rate)
    return sorted(benign)[-above - 1]


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Inspects the aggregate of round after round and raises the alarm."""

    spec: ModelSpec
    """Structure of the model."""
    alarm: SuspicionRule = SuspicionRule()
    """When to raise it."""
    inspection: Inspection = field(default_factory=TriggerSearch)
    """How a model is inspected."""
    seed: int = 0
    """Of all that an inspection draws."""

    def look(self, model: nn.Module, state: State | None = None) -> tuple[Finding, bool, State]:
        """Inspect a round's model, which stays untouched.

        Args:
            model: the aggregate.
            state: what the look at the round before returned; None in the first round.

        Returns:
            What was found, whether it is an alarm, and the state for the next round.
        """
        earlier: State = state or {"quiet": [], "suspected": [], "inspection": None}
        history = AnomalyHistory(self.alarm, earlier["quiet"], earlier["suspected"])
        before = earlier.get("inspection")
        found = self.inspection.inspect(model, self.spec, seed=self.seed, state=before)
        alarmed = history.add(found)
        return found, alarmed, {
            "quiet": history.quiet, "suspected": history.suspected, "inspection": found.state,
        }  # fmt: skip
