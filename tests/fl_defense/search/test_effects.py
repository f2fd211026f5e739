import pytest
import torch

from fl_defense.search.effects import excess_gain, flip_rate, gain_over_mean, squared_gain


def test_gains_count_and_what_falls_does_not() -> None:
    leap, fall = torch.zeros(1, 10), torch.zeros(1, 10)
    leap[0, 3], fall[0, 3] = 5.0, -5.0
    assert squared_gain(leap) == pytest.approx(4.5**2 / 10)
    assert squared_gain(fall) == pytest.approx(9 * 0.5**2 / 10)
    assert squared_gain(torch.full((2, 10), 7.0)) == 0


def test_only_a_gain_beyond_the_tolerated_one_is_an_excess_gain() -> None:
    moved = torch.zeros(2, 10)
    moved[0, 3] = 5.0
    assert excess_gain(moved, tolerated=1.5) == pytest.approx((4.5 - 1.5) / 2)
    assert excess_gain(moved, tolerated=4.5) == 0
    assert excess_gain(moved + 7, tolerated=1.5) == excess_gain(moved, tolerated=1.5)


def test_a_gain_is_what_a_logit_has_on_the_mean() -> None:
    change = torch.tensor([[4.0, 0.0, 2.0]])
    assert gain_over_mean(change).tolist() == [[2.0, -2.0, 0.0]]


def test_flips_are_counted_among_images_of_other_classes() -> None:
    plain = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    changed = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert flip_rate(changed, plain, 0) == 0.5
    assert flip_rate(changed, plain[:1].expand(3, -1), 0) == 0.0
