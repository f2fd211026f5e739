"""FedGame's weights: who reacts to the trigger found in the mean weighs less."""

import pytest
import torch
from torch import nn

from fl_defense.screens.base import Screening
from fl_defense.screens.fedgame import FedGame, Trigger
from tests.fl_defense.screens.attribution.test_attribution import (
    CPU,
    Arrays,
    honest,
    planted,
    shown,
    spec,
)

SCREEN = FedGame(num_images=48, learning_rate=0.1, steps=200, patience=200, mask_weight=0.1)
"""A mask of 64 pixels is small beside the cross-entropy: its weight is larger than by default."""


def screened(replies: list[Arrays], screen: FedGame = SCREEN) -> Screening:
    torch.manual_seed(0)
    return screen.screen(shown(replies), spec(), device=CPU)


def test_who_planted_a_block_weighs_less_than_the_others() -> None:
    replies = [honest(seed) for seed in range(8)]
    replies[3], replies[6] = planted(3), planted(6)
    screening = screened(replies)
    assert screening.details["class"] == 1
    sizes = screening.details["mask_sizes"]
    assert sizes.index(min(sizes)) == 1
    weights = [said.weight for said in screening.verdicts]
    assert max(weights[3], weights[6]) < min(weights[:3] + weights[4:6] + weights[7:]) - 0.3
    assert screening.verdicts[3].reason.startswith("the trigger of class 1 turns ")
    assert [said.weight for said in screening.verdicts] == [
        1 - (said.score or 0.0) for said in screening.verdicts
    ]


def test_a_trigger_blends_its_pattern_in_where_the_mask_is() -> None:
    trigger = Trigger(mask=torch.tensor([[[0.0, 0.5, 1.0]]]), pattern=torch.ones(1, 1, 3))
    assert trigger.apply(torch.full((1, 1, 1, 3), 0.5)).flatten().tolist() == [0.5, 0.75, 1.0]
    assert trigger.size == 1.5


def test_a_mean_that_overflows_takes_nothing() -> None:
    far = honest(0)
    far["1.weight"] = torch.full_like(far["1.weight"], 3e38)
    screening = screened([honest(1), far])
    assert screening.keep_sent == "the mean of the replies gives answers that are not finite"


def test_networks_that_pass_no_gradient_are_refused() -> None:
    class Blind(nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.detach().flatten(1)[:, :3]

    with pytest.raises(ValueError, match="passes no gradient"):
        SCREEN.check(Blind(1, 1), spec())
