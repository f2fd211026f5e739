"""RFA: the mean under its weights is the geometric median, known for three points."""

import pytest
import torch

from fl_defense.screens.base import Reply, ScreenedRound
from fl_defense.screens.rfa import RFA
from tests.fl_defense.screens.rounds import CPU, judged, line_spec, round_of, vector, weights_of

EXACT = RFA(iterations=1000, tolerance=0.0)


def mean_of(shown: ScreenedRound, screen: RFA) -> list[float]:
    """What FedAvg makes of the replies under the screen's weights."""
    said = screen.screen(shown, line_spec(2), device=CPU).verdicts
    factors = [
        each.weight * reply.num_examples for each, reply in zip(said, shown.replies, strict=True)
    ]
    rows = torch.stack([reply.arrays["weight"][0].double() for reply in shown.replies])
    weights = torch.tensor(factors, dtype=torch.float64)
    mean: list[float] = ((weights @ rows) / weights.sum()).tolist()
    return mean


def test_the_geometric_median_of_a_right_triangle() -> None:
    # Fermat's point of (0, 0), (1, 0), (0, 1) lies on the diagonal at (3 - sqrt 3) / 6.
    point = (3 - 3**0.5) / 6
    mean = mean_of(round_of([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]), EXACT)
    assert mean == pytest.approx([point, point], abs=1e-4)


def test_the_geometric_median_at_an_obtuse_angle_is_its_corner() -> None:
    mean = mean_of(round_of([-1.0, 0.0], [1.0, 0.0], [0.0, 0.1]), EXACT)
    assert mean == pytest.approx([0.0, 0.1], abs=1e-3)


def test_examples_count_as_in_the_mean() -> None:
    # Of more than half of the examples one reply is the median itself.
    shown = round_of([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    heavy = [Reply(node=9, arrays=vector([4.0, 4.0]), num_examples=100.0), *shown.replies]
    mean = mean_of(ScreenedRound(number=1, sent=shown.sent, replies=heavy), EXACT)
    assert mean == pytest.approx([4.0, 4.0], abs=1e-3)


def test_each_of_four_steps_divides_the_weight_of_a_far_update_by_three() -> None:
    # The mean of four lies three times as far from the far one as from the others, at each weight.
    screening = judged(RFA(), [1.0, 0.0], [1.1, 0.0], [0.9, 0.0], [1e9, 0.0])
    weights = weights_of(screening)
    assert weights[3] == pytest.approx(3.0**-4, rel=1e-4)
    assert weights[:3] == pytest.approx([1.0] * 3, rel=1e-4)
    assert "from the geometric median" in screening.verdicts[3].reason


def test_more_steps_leave_nothing_of_a_far_update() -> None:
    shown = round_of([1.0, 0.0], [1.1, 0.0], [0.9, 0.0], [1e9, 0.0])
    assert mean_of(shown, RFA(iterations=60, tolerance=0.0))[0] == pytest.approx(1.0, abs=0.1)


def test_two_replies_have_no_median() -> None:
    assert judged(RFA(), [1.0, 0.0], [5.0, 0.0]).keep_sent is not None
