"""Weak DP: a fixed bound, and noise that the mean has once."""

import pytest
import torch

from fl_defense.screens.weak_dp import WeakDP
from tests.fl_defense.screens.rounds import judged, replaced


def test_longer_updates_are_clipped_to_the_bound() -> None:
    screening = judged(WeakDP(max_norm=5.0, noise=0.0), [3.0, 4.0], [6.0, 8.0])
    assert [said.score for said in screening.verdicts] == [5.0, 10.0]
    assert screening.verdicts[0].arrays is None
    assert replaced(screening, 1) == pytest.approx([3.0, 4.0])
    assert screening.verdicts[1].reason == "update of norm 10 was clipped to 5"


def test_all_replies_get_the_same_noise_of_the_set_deviation() -> None:
    torch.manual_seed(0)
    screening = judged(WeakDP(noise=0.5), [0.0] * 4000, [1.0] + [0.0] * 3999)
    first, second = (torch.tensor(replaced(screening, place)) for place in range(2))
    assert first.std().item() == pytest.approx(0.5, rel=0.05)
    assert torch.allclose(second[1:], first[1:])
    assert (second - first)[0].item() == pytest.approx(1.0)


@pytest.mark.parametrize("setting", [{"max_norm": 0.0}, {"noise": -0.1}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        WeakDP(**setting)
