import pytest
import torch

from fl_defense.search.effects import excess, raised


def test_what_a_patch_raises_counts_and_what_falls_does_not() -> None:
    leap, fall = torch.zeros(1, 10), torch.zeros(1, 10)
    leap[0, 3], fall[0, 3] = 5.0, -5.0
    assert raised(leap) == pytest.approx(4.5**2 / 10)
    assert raised(fall) == pytest.approx(9 * 0.5**2 / 10)
    assert raised(torch.full((2, 10), 7.0)) == 0


def test_only_a_raise_beyond_the_tolerated_one_is_an_excess() -> None:
    moved = torch.zeros(2, 10)
    moved[0, 3] = 5.0
    assert excess(moved, tolerated=1.5) == pytest.approx((4.5 - 1.5) / 2)
    assert excess(moved, tolerated=4.5) == 0
    assert excess(moved + 7, tolerated=1.5) == excess(moved, tolerated=1.5)
