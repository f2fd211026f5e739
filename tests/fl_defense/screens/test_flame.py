"""FLAME: the planted opposite update is left out, the rest is clipped to the median and blurred."""

import pytest
import torch

from fl_defense.screens.flame import FLAME
from tests.fl_defense.screens.rounds import (
    judged,
    left_out,
    line_spec,
    replaced,
)

HONEST = [[1.0, 0.1], [1.0, 0.0], [1.0, -0.1], [2.0, 0.1]]
OPPOSITE = [-1.0, 0.0]


def test_one_planted_opposite_update_is_left_out_wherever_it_stands() -> None:
    for place in range(5):
        updates = [*HONEST[:place], OPPOSITE, *HONEST[place:]]
        screening = judged(FLAME(noise=0.0), *updates)
        assert place in left_out(screening)
        assert len(left_out(screening)) <= 2  # a majority is kept
        said = screening.verdicts[place]
        assert said.score == pytest.approx(2.0, abs=0.01)
        assert "points away from most replies" in said.reason


def test_what_is_kept_is_clipped_to_the_median_norm_of_all_replies() -> None:
    screening = judged(
        FLAME(noise=0.0), [4.0, 0.0], [1.0, 0.0], [2.0, 0.0], [-8.0, 0.0], [2.0, 0.0]
    )
    assert left_out(screening) == [3]
    assert screening.details["max_norm"] == 2.0
    assert replaced(screening, 0) == [2.0, 0.0]
    assert screening.verdicts[0].reason == "update of norm 4 was clipped to 2"
    assert screening.verdicts[1].arrays is None
    assert screening.verdicts[1].reason == ""


def test_the_mean_has_the_noise_once_and_in_proportion_to_the_median_norm() -> None:
    size = 4000
    updates = [[2.0] + [0.0] * (size - 1)] * 5
    torch.manual_seed(0)
    screening = judged(FLAME(noise=0.5), *updates)
    moved = torch.tensor([replaced(screening, place) for place in range(5)])
    assert torch.equal(moved[0], moved[4])
    noise = moved.mean(0)[1:]
    assert noise.std().item() == pytest.approx(0.5 * 2.0, rel=0.05)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.05)


def test_two_halves_that_move_apart_are_one_sparse_cluster_as_its_limits_say() -> None:
    screening = judged(FLAME(), [1.0, 0.0], [1.0, 0.01], [-1.0, 0.0], [-1.0, 0.01])
    assert left_out(screening) == []


def test_two_replies_cannot_be_told_apart() -> None:
    screening = judged(FLAME(), [1.0, 0.0], [-1.0, 0.0])
    assert screening.keep_sent == "2 replies cannot be told apart, at least 3 are needed"


def test_without_scikit_learn_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_defense.screens.clusters.find_spec", lambda name: None)
    spec = line_spec(2)
    with pytest.raises(
        ValueError, match=r"FLAME clusters .* not installed; pip install 'fl-defense\[screens\]'"
    ):
        FLAME().check(spec.build(), spec)


@pytest.mark.parametrize("setting", [{"noise": -1.0}, {"least_replies": 2}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        FLAME(**setting)  # type: ignore[arg-type]
