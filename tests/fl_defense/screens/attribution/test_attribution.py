"""Attribution on networks that count pixels: who learned a block of them is left out."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.spec import ModelSpec, Pixels
from fl_defense.screens import SCREENS
from fl_defense.screens.apply import apply_screens
from fl_defense.screens.attribution import Attribution
from fl_defense.screens.attribution.rule import OutlierRule
from fl_defense.screens.base import Reply, ScreenedRound, Screening
from fl_defense.search.difference import DifferenceSearch
from fl_defense.search.patterns import Patches

CPU = torch.device("cpu")
SEARCH = DifferenceSearch(families=(Patches(share=3 / 8),), first_steps=4, steps=2)
QUICK = Attribution(search=SEARCH, num_scenes=24, num_judges=16, candidates_per_image=1)
Arrays = dict[str, Tensor]
BLOCK = 10.0
"""What a planted block adds to its class for each of its pixels."""


def spec() -> ModelSpec:
    return ModelSpec(
        build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
        input_shape=(1, 8, 8),
        num_classes=3,
        pixels=Pixels(mean=(0.0,), std=(1.0,)),
    )


def sent() -> Arrays:
    generator = torch.Generator().manual_seed(0)
    return {"1.weight": torch.randn(3, 64, generator=generator), "1.bias": torch.zeros(3)}


def honest(seed: int) -> Arrays:
    arrays, generator = sent(), torch.Generator().manual_seed(100 + seed)
    arrays["1.weight"] += 0.02 * torch.randn(3, 64, generator=generator)
    return arrays


def planted(
    seed: int, *, label: int = 1, strength: float = BLOCK, rows: slice = slice(3, 6)
) -> Arrays:
    arrays = honest(seed)
    weights = arrays["1.weight"].view(3, 8, 8)
    weights[label, rows, 3:6] += strength
    # As much less elsewhere, so that the class is not preferred without the block.
    weights[label, 0] -= strength * 0.75
    return arrays


def shown(replies: list[Arrays], number: int = 5, first_node: int = 10) -> ScreenedRound:
    return ScreenedRound(
        number=number,
        sent=sent(),
        replies=[
            Reply(node=first_node + place, arrays=arrays, num_examples=100.0)
            for place, arrays in enumerate(replies)
        ],
    )


def screen(round_: ScreenedRound, settings: Attribution = QUICK, state: Any = None) -> Screening:
    torch.manual_seed(0)
    return settings.screen(round_, spec(), device=CPU, state=state)


def left_out(screening: Screening) -> list[int]:
    return [place for place, said in enumerate(screening.verdicts) if said.weight == 0]


HONEST = [honest(place) for place in range(8)]
ATTACKED = [*HONEST[:3], planted(3), *HONEST[4:6], planted(6), HONEST[7]]


def test_attribution_is_a_screen_by_name() -> None:
    assert SCREENS["attribution"] is Attribution


def test_nobody_is_left_out_where_nobody_attacks() -> None:
    screening = screen(shown(HONEST))
    assert left_out(screening) == []
    assert screening.keep_sent is None
    assert not screening.is_suspicious
    assert screening.details["patterns"] == []


def test_who_planted_a_block_is_left_out_and_told() -> None:
    screening = screen(shown(ATTACKED))
    assert left_out(screening) == [3, 6]
    assert "class 1" in screening.verdicts[3].reason
    scores = [said.score or 0.0 for said in screening.verdicts]
    assert min(scores[3], scores[6]) > 3 * max(scores[place] for place in (0, 1, 2, 4, 5, 7))
    found = screening.details["patterns"][0]
    assert (found["class"], found["search"], found["left_out"]) == (1, 1, [13, 16])
    assert set(found["gains"]) == {str(node) for node in range(10, 18)}
    picture = next(iter(screening.pictures.values()))
    assert picture.shape == (1, 8, 8)
    assert 0 <= picture.min() <= picture.max() <= 1
    # What is left has nothing of it.
    assert not screening.is_suspicious


def test_another_backdoor_is_found_once_the_first_is_gone() -> None:
    second = planted(6, label=2, strength=4.0, rows=slice(5, 8))
    screening = screen(shown([*HONEST[:3], planted(3), *HONEST[4:6], second, HONEST[7]]))
    assert left_out(screening) == [3, 6]


def test_a_pattern_is_remembered_and_judged_beside_those_found() -> None:
    first = screen(shown(ATTACKED))
    again = screen(shown(ATTACKED, number=6), state=first.state)
    assert left_out(again) == [3, 6]
    assert {None, 1} <= {found["search"] for found in again.details["patterns"]}
    assert "remembered" in again.verdicts[3].reason


def test_what_the_model_sent_out_knows_already_names_nobody() -> None:
    known = planted(0)
    replies = [{name: value.clone() for name, value in known.items()} for _ in range(8)]
    for place, arrays in enumerate(replies):
        generator = torch.Generator().manual_seed(place)
        arrays["1.weight"] += 0.02 * torch.randn(3, 64, generator=generator)
    assert left_out(screen(replace(shown(replies), sent=known))) == []


def test_too_many_suspects_keep_the_model_sent_out() -> None:
    settings = replace(QUICK, least_kept=0.9)
    screening = screen(shown(ATTACKED), settings)
    assert screening.keep_sent == "2 of 8 replies stand out"
    assert not screening.is_suspicious


def test_softened_replies_keep_the_share_that_reaches_the_limit() -> None:
    screening = screen(shown(ATTACKED), replace(QUICK, action="soften"))
    weights = [said.weight for said in screening.verdicts]
    assert 0 < weights[3] < 0.5
    assert [weights[place] for place in (0, 1, 2, 4, 5, 7)] == [1.0] * 6


def test_the_first_round_is_not_screened() -> None:
    screening = screen(shown(ATTACKED, number=1))
    assert left_out(screening) == []
    assert "learned in this round" in screening.details["not_screened"]


def test_what_attackers_teach_and_others_forget_is_found_between_the_sides() -> None:
    """The mean of the replies is the model sent out, so that nothing in it is new."""
    replies = [honest(0), honest(1), planted(2), *[honest(place) for place in range(3, 8)]]
    weights = torch.stack([arrays["1.weight"] for arrays in replies])
    known = {"1.weight": weights.mean(0), "1.bias": torch.zeros(3)}
    round_ = replace(shown(replies), sent=known)
    assert left_out(screen(round_)) == [2]
    assert left_out(screen(round_, replace(QUICK, least_ratio=1e9))) == []


def test_a_run_that_begins_with_a_trained_model_is_screened_from_its_first_round() -> None:
    first = shown(ATTACKED, number=1)
    assert left_out(screen(first)) == []
    assert left_out(screen(replace(first, began_trained=True))) == [3, 6]


def test_what_is_left_may_still_be_suspicious() -> None:
    # Most replies have it, so that nobody stands out.
    screening = screen(shown([planted(place) for place in range(8)]))
    assert left_out(screening) == []
    assert screening.is_suspicious


def test_a_proven_pattern_that_the_model_sent_out_knows_is_suspicious() -> None:
    state = screen(shown(ATTACKED)).state
    known = [planted(place) for place in range(8)]
    screening = screen(replace(shown(known, number=6), sent=planted(0)), state=state)
    assert left_out(screening) == []
    assert screening.is_suspicious
    # Without the memory there is no difference to see.
    assert not screen(replace(shown(known, number=6), sent=planted(0))).is_suspicious
    assert not screen(shown(HONEST, number=6), state=state).is_suspicious


def state_of(past: Any, suspicion: float = 1.0) -> dict[str, Any]:
    """The state in which nodes 13 and 16 have stood out for class 1, with models sent earlier."""
    state = screen(shown(ATTACKED)).state
    assert state is not None
    rows = [[node, 1, suspicion] for node in (13, 16) if suspicion]
    return {**state, "history": rows, "past": {"models": past, "accused": []}}


KNOWS = planted(0)
TAUGHT = [{name: KNOWS[name] + reply[name] - sent()[name] for name in reply} for reply in ATTACKED]
"""Replies to a model that knows the block, of which two learned it again."""
ANY_SHARE = replace(QUICK, rule=OutlierRule(least_apart=0))
"""All of them turn every scene by it."""


def test_the_federation_goes_back_where_who_is_named_has_taught_before() -> None:
    round_ = replace(shown(TAUGHT, number=6), sent=KNOWS)
    state = state_of([[3, honest(1)], [4, honest(2)], [5, KNOWS]])
    back = screen(round_, ANY_SHARE, state=state)
    assert left_out(back) == [3, 6]
    assert back.send_again is not None
    # The latest that does not know the block, not the oldest.
    assert back.send_again.round == 4
    assert torch.equal(back.send_again.arrays["1.weight"], honest(2)["1.weight"])
    assert back.keep_sent == "the one sent out reacts to what 2 replies teach again"
    assert back.state is not None
    assert [number for number, _ in back.state["past"]["models"]] == [3]
    assert back.state["past"]["accused"] == [[13, 1, 1], [16, 1, 1]]
    # For the same nodes it does not go back twice.
    again = screen(round_, ANY_SHARE, state={**state, "past": back.state["past"]})
    assert left_out(again) == [3, 6]
    assert again.send_again is None


def test_it_does_not_go_back_for_a_first_suspicion() -> None:
    round_ = replace(shown(TAUGHT, number=6), sent=KNOWS)
    # Without flips: the model sent out turns every scene already.
    settings = replace(QUICK, rule=OutlierRule(least_flipped=0))
    back = screen(round_, settings, state=state_of([[3, honest(1)]], suspicion=0))
    assert left_out(back) == [3, 6]
    assert back.send_again is None


def test_it_does_not_go_back_from_a_model_that_does_not_know_the_pattern() -> None:
    back = screen(shown(ATTACKED, number=6), state=state_of([[3, honest(1)]]))
    assert left_out(back) == [3, 6]
    assert back.send_again is None
    assert back.state is not None
    assert [number for number, _ in back.state["past"]["models"]] == [3, 6]


def test_it_does_not_go_back_to_a_model_that_reacts_nearly_as_much() -> None:
    round_ = replace(shown(TAUGHT, number=6), sent=KNOWS)
    back = screen(round_, ANY_SHARE, state=state_of([[3, planted(1, strength=8.0)]]))
    assert left_out(back) == [3, 6]
    assert back.send_again is None


def test_a_reply_whose_answers_overflow_is_left_out() -> None:
    broken = honest(3)
    broken["1.weight"] = torch.full((3, 64), 3e38)
    screening = screen(shown([*HONEST[:3], broken, *HONEST[4:]]))
    assert left_out(screening) == [3]
    assert "not finite" in screening.verdicts[3].reason


def test_a_model_sent_out_that_overflows_stays() -> None:
    screening = screen(
        replace(shown(HONEST), sent={**sent(), "1.weight": torch.full((3, 64), 3e38)})
    )
    assert screening.keep_sent is not None
    assert "not finite" in screening.keep_sent


def test_nothing_shown_is_changed() -> None:
    round_ = shown([{name: value.clone() for name, value in one.items()} for one in ATTACKED])
    screen(round_)
    for reply, before in zip(round_.replies, ATTACKED, strict=True):
        assert all(torch.equal(reply.arrays[name], before[name]) for name in before)


@pytest.mark.parametrize("state", [{}, {"memory": []}, {"memory": 3, "history": []}])
def test_a_foreign_state_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        screen(shown(HONEST), state=state)


def test_a_refused_state_is_begun_afresh_by_the_caller() -> None:
    screened = apply_screens(
        [QUICK],
        shown(ATTACKED),
        spec(),
        seed=0,
        device=CPU,
        states={"0 Attribution": {"memory": [], "history": [[1, 2]], "past": {}}},
    )
    assert [said.weight for said in screened.verdicts] == [1, 1, 1, 0, 1, 1, 0, 1]
    assert "rows of 3" in screened.reports[0].details["memory_refused"]


def test_networks_without_image_gradient_are_refused() -> None:
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, images: Tensor) -> Tensor:
            return self.bias.expand(len(images), 3)

    with pytest.raises(ValueError, match="gradient"):
        Attribution().check(Blind(), spec())


@pytest.mark.parametrize(
    "settings", [{"first_round": 0}, {"most_searches": 0}, {"least_kept": 2}, {"action": "ban"}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Attribution(**settings)
