"""RLR: the mean of the replaced replies is sent + rate * mean of the updates."""

import pytest
import torch

from fl_defense.screens.rlr import RLR
from tests.fl_defense.screens.rounds import judged, replaced, weights_of

UPDATES = [[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, -9.0, 0.0], [5.0, -9.0, 3.0]]
"""Signs add up to 5, 1 and 1; with 0.4 of 5 replies, 2 are needed."""


def test_the_mean_follows_where_clients_agree_and_is_turned_round_elsewhere() -> None:
    screening = judged(RLR(), *UPDATES)
    mean = torch.tensor([replaced(screening, place) for place in range(5)]).mean(0)
    assert mean.tolist() == pytest.approx([2.0, 3.0, -0.6])  # the plain mean is 2, -3, 0.6
    assert screening.details["turned"] == pytest.approx(2 / 3)
    assert weights_of(screening) == [1.0] * 5


def test_any_weighted_mean_is_the_rules() -> None:
    shares = torch.tensor([0.5, 0.1, 0.1, 0.2, 0.1])
    screening = judged(RLR(), *UPDATES)
    mean = shares @ torch.tensor([replaced(screening, place) for place in range(5)])
    plain = shares @ torch.tensor(UPDATES)
    assert torch.allclose(mean, plain * torch.tensor([1.0, -1.0, -1.0]))


def test_the_score_is_the_share_of_signs_against_the_vote() -> None:
    screening = judged(RLR(), *UPDATES)
    assert [said.score for said in screening.verdicts] == pytest.approx([0, 0, 0, 1 / 3, 1 / 3])


def test_a_sum_at_the_threshold_is_agreement() -> None:
    screening = judged(RLR(least_agreement=0.5), [1.0], [1.0], [1.0], [-1.0])
    assert screening.details["turned"] == 0.0
    screening = judged(RLR(least_agreement=0.51), [1.0], [1.0], [1.0], [-1.0])
    assert screening.details["turned"] == 1.0


def test_two_replies_do_not_vote() -> None:
    assert judged(RLR(), [1.0], [1.0]).keep_sent is not None
