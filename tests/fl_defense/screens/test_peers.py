"""What all filters of the literature keep: the contract, few replies, huge and empty updates."""

from functools import lru_cache

import pytest
import torch
from torch import Tensor

from fl_defense.model.spec import ModelSpec
from fl_defense.screens import (
    FLAME,
    RFA,
    RLR,
    SCREENS,
    DeepSight,
    FedGame,
    FilterFL,
    FLTrust,
    FoolsGold,
    MultiMetrics,
    NormClipping,
    Screen,
    WeakDP,
)
from fl_defense.screens.apply import apply_screens
from fl_defense.screens.base import Reply, ScreenedRound
from fl_defense.testing import check_screen_contract, small_spec
from tests.fl_defense.screens.rounds import CPU

QUICK: dict[str, Screen] = {
    "norm-clipping": NormClipping(),
    "flame": FLAME(),
    "multi-metrics": MultiMetrics(),
    "foolsgold": FoolsGold(),
    "rfa": RFA(),
    "rlr": RLR(),
    "weak-dp": WeakDP(),
    "fltrust": FLTrust(num_images=8),
    "deepsight": DeepSight(num_samples=32),
    "fedgame": FedGame(num_images=8, steps=2),
    "filterfl": FilterFL(num_images=4, steps=2),
}
every_screen = pytest.mark.parametrize("name", QUICK)


@lru_cache
def spec() -> ModelSpec:
    return small_spec()


def start() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: value.clone() for name, value in spec().build().state_dict().items()}


def moved(sent: dict[str, Tensor], scale: float, seed: int) -> dict[str, Tensor]:
    """A reply whose weights lie `scale` from those sent, and whose counters and statistics moved."""
    draw = torch.Generator().manual_seed(seed)
    arrays = {}
    for name, old in sent.items():
        if not old.is_floating_point():
            arrays[name] = old + 7
        elif "running" in name:
            arrays[name] = old + 1
        else:
            arrays[name] = old + scale * (1 + torch.rand(old.shape, generator=draw))
    return arrays


def round_with(*scales: float) -> ScreenedRound:
    sent = start()
    replies = [
        Reply(node=node, arrays=moved(sent, scale, node), num_examples=10.0)
        for node, scale in enumerate(scales)
    ]
    return ScreenedRound(number=2, sent=sent, replies=replies)


def test_every_screen_that_ships_is_tried_here() -> None:
    assert SCREENS.keys() == {*QUICK, "attribution"}
    assert all(type(screen) is SCREENS[name] for name, screen in QUICK.items())


@every_screen
def test_the_contract(name: str) -> None:
    check_screen_contract(QUICK[name], round_with(0.1, 0.1, 0.2, -0.3, 0.1), spec())


@every_screen
@pytest.mark.parametrize("num", [1, 2, 3])
def test_of_few_replies_each_is_scored_or_none_is_taken(name: str, num: int) -> None:
    shown = round_with(*[0.1, 0.2, -0.1][:num])
    screened = apply_screens([QUICK[name]], shown, spec(), seed=0, device=CPU)
    if screened.keep_sent is None:
        assert all(said.score is not None for said in screened.verdicts)
        assert any(said.weight > 0 for said in screened.verdicts)
    else:
        assert "failed" not in screened.keep_sent


@every_screen
@pytest.mark.parametrize("scales", [(0.1, 0.1, 0.1, 0.1, 1e38), (1e38, 1e38, 1e38, -1e38, 1e38),
                                    (0.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.1, 0.1, 0.1, 1e-44)])  # fmt: skip
def test_huge_and_empty_updates_are_judged_by_finite_numbers(
    name: str, scales: tuple[float, ...]
) -> None:
    screened = apply_screens([QUICK[name]], round_with(*scales), spec(), seed=0, device=CPU)
    assert "failed" not in (screened.keep_sent or "")


@every_screen
def test_counters_are_never_replaced_by_something_else(name: str) -> None:
    shown = round_with(0.1, 0.1, 0.2, -0.3, 9.0)
    screened = apply_screens([QUICK[name]], shown, spec(), seed=0, device=CPU)
    for reply, said in zip(shown.replies, screened.verdicts, strict=True):
        for key, value in (said.arrays or {}).items():
            if "num_batches" in key or "running" in key:
                assert torch.equal(value, reply.arrays[key])
