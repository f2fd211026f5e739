"""Means over seeds with intervals of 95 %."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as student

CONFIDENCE = 0.95
RESAMPLES = 2000
"""Of the bootstrap: its bounds then move in the third digit at most."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds; the intervals are None for a single value."""

    mean: float
    count: int
    half_width: float | None
    """Of Student's interval: mean ± this. It assumes a normal spread and may leave [0, 1]."""
    bootstrap: tuple[float, float] | None
    """Percentiles of the means of resampled values: no assumption, but too narrow for few seeds."""


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of at least one value, with its intervals.

    The bootstrap draws from a fixed seed: the same values give the same interval.

    >>> found = estimate([0.1, 0.2, 0.3])
    >>> round(found.mean, 3), round(found.half_width, 3)
    (0.2, 0.248)
    """
    mean, count = fmean(values), len(values)
    if count < 2:
        return Estimate(mean=mean, count=count, half_width=None, bootstrap=None)
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, count - 1))
    half_width = quantile * stdev(values) / math.sqrt(count)
    return Estimate(
        mean=mean, count=count, half_width=half_width, bootstrap=_bootstrap(list(values))
    )


def _bootstrap(values: list[float]) -> tuple[float, float]:
    draws = random.Random(0)
    means = sorted(fmean(draws.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = round((1 - CONFIDENCE) / 2 * RESAMPLES)
    return means[tail], means[RESAMPLES - 1 - tail]
