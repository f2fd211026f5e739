"""Multi-Metrics: three sums of distances, whitened; the planted update has the highest score."""

import numpy as np
import pytest
import torch

from fl_defense.screens.multi_metrics import MultiMetrics, sums_of_distances, whitened
from tests.fl_defense.screens.rounds import judged, left_out, round_of

NAMES = frozenset({"weight"})


def test_the_sums_of_cosine_manhattan_and_euclidean_distances() -> None:
    sums = sums_of_distances(round_of([3.0, 0.0], [0.0, 4.0], [3.0, 0.0]), NAMES)
    # The second is orthogonal to both others, 3 + 4 and sqrt(9 + 16) from them.
    expected = [[1.0, 7.0, 5.0], [2.0, 14.0, 10.0], [1.0, 7.0, 5.0]]
    assert torch.allclose(sums, torch.tensor(expected, dtype=torch.float64))


def test_scores_are_lengths_under_the_inverse_covariance() -> None:
    sums = np.random.default_rng(0).uniform(1, 9, (6, 3)) * [1e-3, 1.0, 1e6]
    inverse = np.linalg.inv(np.cov(sums.T))
    expected = [float(np.sqrt(row @ inverse @ row)) for row in sums]
    assert whitened(torch.tensor(sums)).tolist() == pytest.approx(expected, rel=1e-6)


def test_planted_updates_are_left_out_and_a_third_is_kept() -> None:
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        honest = (1 + 0.5 * torch.randn(9, 200, generator=draw)).tolist()
        for planted in ([-3.0] * 200, [3.0] * 200, torch.randn(200, generator=draw).tolist()):
            screening = judged(MultiMetrics(), *honest, planted)
            assert 9 in left_out(screening)
            assert len(left_out(screening)) == 7
            assert "is not among the 3 lowest" in screening.verdicts[9].reason


def test_three_replies_cannot_be_told_apart() -> None:
    assert judged(MultiMetrics(), [1.0], [2.0], [3.0]).keep_sent is not None


@pytest.mark.parametrize("kept", [0.0, 1.1])
def test_a_share_out_of_range_is_refused(kept: float) -> None:
    with pytest.raises(ValueError, match=r"kept must be in \(0, 1\]"):
        MultiMetrics(kept=kept)
