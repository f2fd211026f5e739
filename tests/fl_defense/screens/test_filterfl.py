"""FilterFL's idea: who is sure of what the model sent out did not know is left out."""

from dataclasses import replace

import torch

from fl_defense.screens.apply import apply_screens
from fl_defense.screens.base import Screening
from fl_defense.screens.filterfl import FilterFL
from tests.fl_defense.screens.attribution.test_attribution import (
    CPU,
    Arrays,
    honest,
    planted,
    sent,
    shown,
    spec,
)

SCREEN = FilterFL(num_images=16, steps=60)


def screened(replies: list[Arrays], number: int = 5) -> Screening:
    torch.manual_seed(0)
    return SCREEN.screen(shown(replies, number=number), spec(), device=CPU)


def flat() -> Arrays:
    """A model that is sure of nothing, as the search wants the one sent out to be."""
    return {name: 0.01 * value for name, value in sent().items()}


def flat_round(replies: list[Arrays], number: int = 5) -> Screening:
    round_ = replace(shown(replies, number=number), sent=flat())
    torch.manual_seed(0)
    return SCREEN.screen(round_, spec(), device=CPU)


def taught(label: int) -> Arrays:
    """A reply that plants a block into the flat model."""
    arrays = flat()
    weights = arrays["1.weight"].view(3, 8, 8)
    weights[label, 3:6, 3:6] += 4.0
    weights[label, 0] -= 3.0
    return arrays


def test_whoever_taught_a_class_is_left_out_whichever_it_is() -> None:
    for label in range(3):
        screening = flat_round([flat(), flat(), taught(label), flat()])
        out = [place for place, said in enumerate(screening.verdicts) if said.weight == 0]
        assert out == [2]
        assert f"class {label}" in screening.verdicts[2].reason


def test_where_nothing_was_taught_nobody_is_left_out() -> None:
    assert all(said.weight == 1 for said in flat_round([flat()] * 4).verdicts)


def test_where_all_are_sure_the_model_stays_and_it_is_said() -> None:
    screened_ = apply_screens([SCREEN], shown([planted(seed) for seed in range(3)]), spec(),
                              seed=0, device=CPU)  # fmt: skip
    assert screened_.keep_sent == "every reply was left out"


def test_the_first_round_is_not_screened_and_says_so() -> None:
    screening = screened([honest(0), planted(1)], number=1)
    assert screening.details == {"not_screened": "everything was learned in this round"}
