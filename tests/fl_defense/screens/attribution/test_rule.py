"""The outlier rule on tables of scores, those of real rounds among them."""

import pytest

from fl_defense.screens.attribution.rule import OutlierRule

RULE = OutlierRule()
ALL = [1.0] * 10


def suspects(scores: list[float], **probation: float) -> list[int]:
    """The suspects among replies of which those half a floor above the median turn every scene."""
    usual = sorted(scores)[len(scores) // 2]
    return RULE.suspects(scores, [float(score > usual + 0.4) for score in scores], **probation)


def test_the_limit_is_six_robust_deviations_above_the_median() -> None:
    # Median 2, absolute deviations 2, 1, 0, 1, 2: median 1.
    assert RULE.limit([0, 1, 2, 3, 4]) == pytest.approx(2 + 6 * 1.4826)


def test_replies_that_are_alike_have_the_floor() -> None:
    assert RULE.limit([0.1, 0.1, 0.1, 0.1, 9.0]) == pytest.approx(1.1)


def test_attackers_far_above_are_certain() -> None:
    scores = [0.02, 0.11, 0.05, 0.1, 9.6, 0.08, 7.0, 0.0, 0.11, 0.09]
    assert RULE.certain(scores, ALL) == [4, 6]
    assert suspects(scores) == [4, 6]


def test_a_reply_that_flips_nothing_is_not_certain() -> None:
    # One round of skewed data without attackers: gains of 1.4 bars, flips of 0.2 to 0.43.
    scores = [-0.1, -0.2, 0.1, 1.4, 0.0, -0.7, 0.2, 0.1, -0.3, 0.2]
    flipped = [0.0, 0.0, 0.1, 0.43, 0.0, 0.0, 0.2, 0.0, 0.0, 0.1]
    assert RULE.certain(scores, flipped) == []
    assert suspects(scores) == [3]


def test_two_heaps_hide_attackers_from_the_deviation_and_not_from_the_gap() -> None:
    # Digits with few images each: honest replies fall into two heaps, and the deviation is wide.
    scores = [0.1, 0.1, 0.9, 0.94, 2.44, 0.1, 3.1, 0.9, 0.05, 0.85]
    assert RULE.certain(scores, ALL) == []
    assert suspects(scores) == [4, 6]


def test_a_gap_that_is_no_gap() -> None:
    assert suspects([0.1, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6]) == []


def test_half_of_the_replies_are_never_suspects() -> None:
    assert suspects([0.0, 0.0, 0.0, 5.0, 5.0, 5.0]) == []


def test_suspects_lie_a_floor_above_the_median() -> None:
    assert suspects([0.0, 0.0, 0.0, 0.0, 0.9]) == []
    assert suspects([0.0, 0.0, 0.0, 0.0, 1.0]) == [4]


def test_a_pattern_that_turns_scenes_in_most_replies_makes_no_suspects() -> None:
    # A client with many images of a class reacts more strongly to what all have learned of it.
    scores = [0.1, 0.0, 0.1, 3.0, 0.0, 0.1]
    turned = [0.5, 0.6, 0.7, 0.84, 0.6, 0.6]
    assert RULE.suspects(scores, turned) == []
    assert RULE.suspects(scores, [*turned[:3], 0.86, *turned[4:]]) == [3]


def test_on_probation_half_a_floor_will_do() -> None:
    scores = [0.0, 0.0, 0.0, 0.0, 0.5]
    assert suspects(scores) == []
    assert suspects(scores, probation=0.5) == [4]
    assert suspects([*scores[:4], 0.49], probation=0.5) == []


def test_few_replies_are_compared_with_nothing_learned() -> None:
    # The median of two attackers of three would be theirs.
    assert RULE.certain([5.0, 5.0, 0.1], [1.0, 1.0, 0.0]) == [0, 1]


@pytest.mark.parametrize(
    "settings",
    [
        {"deviations": -1},
        {"gap": 0.5},
        {"least_flipped": 2},
        {"smallest_distance": 0},
        {"least_apart": 2},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        OutlierRule(**settings)  # type: ignore[arg-type]
