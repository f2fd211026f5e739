"""A few earlier models are kept, of ages that double; for whom one went back is remembered."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fl_defense.screens.attribution.past import Past, RewindPolicy


def model(value: float) -> dict[str, Tensor]:
    return {"weight": torch.full((2, 3), float(value)), "count": torch.tensor(7)}


def past_after(rounds: int, most: int, first_round: int = 1) -> Past:
    past = Past()
    for number in range(1, rounds + 1):
        past = past.after(number, model(number), most, first_round)
    return past


def kept(past: Past) -> list[int]:
    return [earlier.round for earlier in past.models]


def test_ages_double() -> None:
    # Seen from round 17: of ages 8 to 15, 4 to 7, 2 to 3 and 1 the oldest that was still there.
    ages = [17 - number for number in kept(past_after(16, most=4))]
    assert [age.bit_length() for age in ages] == [4, 3, 2, 1]
    assert ages[-1] == 1
    assert kept(past_after(3, most=4)) == [1, 3]


def test_there_is_always_an_old_model_however_long_the_run() -> None:
    for rounds in range(8, 40):
        assert 8 <= rounds + 1 - kept(past_after(rounds, most=4))[0] <= 15


def test_no_more_than_asked_for_are_kept() -> None:
    assert kept(past_after(20, most=0)) == []
    assert kept(past_after(20, most=1)) == [20]


def test_models_of_before_the_first_round_are_not_kept() -> None:
    assert kept(past_after(2, most=4, first_round=2)) == [2]


def test_a_kept_model_is_a_copy() -> None:
    sent = model(1.0)
    past = Past().after(1, sent, 4, 1)
    sent["weight"].zero_()
    assert past.models[0].arrays["weight"].eq(1).all()


def test_later_models_are_forgotten_once_a_federation_has_gone_back() -> None:
    past = past_after(8, most=4)
    assert kept(past) == [1, 5, 7, 8]
    back = past.gone_back(past.models[2], [(3, 0)])
    assert kept(back) == [1, 5]
    assert back.accused == {(3, 0): 1}
    assert back.after(9, model(9), 4, 1).accused == {(3, 0): 1}
    assert back.gone_back(back.models[0], [(3, 0), (1, 0)]).accused == {(3, 0): 2, (1, 0): 1}


def test_a_past_is_written_and_read() -> None:
    past = past_after(8, most=4).gone_back(past_after(8, most=4).models[-1], [(3, 0), (1, 2)])
    read = Past.from_state(past.to_state(), model(0), 3)
    assert kept(read) == kept(past)
    assert read.accused == past.accused
    assert read.models[0].arrays["weight"].equal(past.models[0].arrays["weight"])


def damaged(**changes: Any) -> dict[str, Any]:
    return {**past_after(3, most=4).to_state(), **changes}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (3, "models and accused"),
        ({"models": []}, "models and accused"),
        (damaged(models={}), "lists"),
        (damaged(models=[[1]]), "pairs"),
        (damaged(models=[["1", model(1)]]), "pairs"),
        (damaged(models=[[1, {"weight": torch.zeros(2, 3)}]]), "other arrays"),
        (damaged(models=[[1, {**model(1), "weight": torch.zeros(3, 2)}]]), "like the one sent"),
        (damaged(models=[[1, {**model(1), "count": torch.tensor(7.0)}]]), "like the one sent"),
        (damaged(models=[[1, model(float("nan"))]]), "finite"),
        (damaged(models=[[2, model(1)], [1, model(1)]]), "order"),
        (damaged(accused=[[1, 0]]), "three"),
        (damaged(accused=[[1, "0", 1]]), "three"),
        (damaged(accused=[[1, 3, 1]]), "class"),
        (damaged(accused=[[1, 0, 0]]), "times"),
    ],
)
def test_a_damaged_past_is_refused(state: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Past.from_state(state, model(0), 3)


@pytest.mark.parametrize("settings", [{"most_kept": -1}, {"least_fall": 1.5}, {"most_times": -1}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        RewindPolicy(**settings)
