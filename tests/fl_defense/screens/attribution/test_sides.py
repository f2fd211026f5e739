"""The two sides of a round, computed by hand."""

import pytest
import torch
from torch import Tensor

from fl_defense.screens.attribution.sides import smaller_side
from fl_defense.screens.base import Reply, ScreenedRound
from fl_defense.screens.updates import inner_products

SENT = {"weight": torch.ones(1, 2), "count": torch.tensor(3)}


def side_of(*rows: tuple[float, float], least_ratio: float = 2.0) -> list[int] | None:
    replies = [{"weight": torch.tensor([row]) + 1, "count": torch.tensor(9)} for row in rows]
    return side_among(replies, SENT, least_ratio)


def side_among(
    replies: list[dict[str, Tensor]], sent: dict[str, Tensor], least_ratio: float
) -> list[int] | None:
    shown = ScreenedRound(
        number=2,
        sent=sent,
        replies=[Reply(node=1, arrays=arrays, num_examples=1.0) for arrays in replies],
    )
    return smaller_side(inner_products(shown, frozenset(["weight"])), least_ratio)


def test_the_smaller_side_along_the_first_component() -> None:
    assert side_of((0, 1), (0, 1), (9, 0), (0, -1), (0, -1)) == [2]
    assert side_of((9, 1), (9, 1), (0, 0), (9, -1), (9, -1)) == [2]


def test_of_two_alike_the_one_further_out() -> None:
    # About a mean of 1.25 the squares add up to 23.1 and 25.6.
    assert side_of((-3, 0), (-1, 0), (3, 0), (6, 0)) == [2, 3]


def test_replies_that_differ_in_two_directions_alike_have_no_sides() -> None:
    # Variances 8 and 2.
    square: list[tuple[float, float]] = [(2, 0), (-2, 0), (0, 1), (0, -1)]
    assert side_of(*square, least_ratio=4.1) is None
    assert side_of(*square, least_ratio=3.9) is not None


@pytest.mark.parametrize(
    "rows",
    [[(0.0, 0.0), (9.0, 0.0)], [(1.0, 1.0)] * 5],
    ids=["two", "all the same"],
)
def test_no_sides(rows: list[tuple[float, float]]) -> None:
    assert side_of(*rows) is None


def test_what_is_not_named_is_not_compared() -> None:
    replies: list[dict[str, Tensor]] = [
        {"weight": torch.tensor([[value, 0.1]]), "mean": torch.tensor([mean])}
        for value, mean in ((0.0, 90.0), (0.0, 0.0), (1.0, 0.0), (0.0, 0.0))
    ]
    sent = {"weight": torch.zeros(1, 2), "mean": torch.zeros(1)}
    assert side_among(replies, sent, 2.0) == [2]
