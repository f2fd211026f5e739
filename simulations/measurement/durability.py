"""How long a backdoor lasts once its attackers have gone, and how much of it there was."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from simulations.measurement.measured_round import MeasuredRound

BOUNDS = (0.5, 0.1)
"""Attack success rates below which a backdoor counts as fading, and as gone."""

MARGIN = 0.01
"""Accuracy that may be missing where another run's is said to be reached."""


def durability(rounds: Sequence[MeasuredRound], stage: str) -> dict[str, Any]:
    """Return how a stage's attack success rate went.

    Args:
        rounds: all of a run, in order.
        stage: whose rates.

    Returns:
        `rounds_until_asr_below`: for each of `BOUNDS` the rounds from the end of the attack to the
        first measured round below it; None if there is none, or the attack went on to the end.
        `asr_area`: the mean height of the ASR's curve since the attack began, in [0, 1]; None
        without an attack or with fewer than two measured rounds.
    """
    attacked = [each.round for each in rounds if each.malicious]
    if not attacked:
        return {"rounds_until_asr_below": dict.fromkeys(map(str, BOUNDS)), "asr_area": None}
    curve = asr_curve(rounds, stage)
    after = [(number, rate) for number, rate in curve if number > attacked[-1]]
    return {
        "rounds_until_asr_below": {
            str(bound): _first(after, bound, attacked[-1]) for bound in BOUNDS
        },
        "asr_area": mean_height([point for point in curve if point[0] >= attacked[0]]),
    }


def rounds_until_accuracy(
    rounds: Sequence[MeasuredRound], stage: str, accuracy: float
) -> int | None:
    """Return the first measured round after the start whose accuracy is near enough to another.

    Args:
        rounds: all of a run, in order.
        stage: whose accuracy.
        accuracy: to reach but for `MARGIN`, such as that of a run in which all are honest.

    Returns:
        The round, from 1; None if there is none.
    """
    for each in rounds:
        reached = each.rate(stage, "accuracy")
        if each.round > 0 and reached is not None and reached >= accuracy - MARGIN:
            return each.round
    return None


def asr_curve(rounds: Sequence[MeasuredRound], stage: str) -> list[tuple[int, float]]:
    """Return round and attack success rate of a stage wherever it was measured."""
    return [
        (each.round, rate)
        for each in rounds
        if (rate := each.rate(stage, "attack_success_rate")) is not None
    ]


def mean_height(curve: Sequence[tuple[int, float]]) -> float | None:
    """Return the area under a curve by trapezoids over its width; None below two points.

    >>> mean_height([(1, 0.0), (2, 1.0), (4, 1.0)])
    0.8333333333333334
    """
    if len(curve) < 2:
        return None
    area = sum((b - a) * (one + two) / 2 for (a, one), (b, two) in pairwise(curve))
    return area / (curve[-1][0] - curve[0][0])


def _first(after: Sequence[tuple[int, float]], bound: float, ended: int) -> int | None:
    return next((number - ended for number, rate in after if rate < bound), None)
