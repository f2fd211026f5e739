"""FoolsGold: sybils move alike over the rounds, and their weights fall."""

from typing import Any

import pytest
import torch
from torch import nn

from fl_defense.model.spec import ModelSpec
from fl_defense.screens.apply import apply_screens
from fl_defense.screens.foolsgold import FoolsGold, pardoned
from tests.fl_defense.screens.rounds import CPU, judged, line_spec, round_of, weights_of

ALL = FoolsGold(features="all")
E1, E2, E3 = [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]


def test_sybils_that_move_as_one_are_left_out() -> None:
    screening = judged(ALL, E1, E2, E3, E3)
    assert weights_of(screening) == [1.0, 1.0, 0.0, 0.0]
    assert screening.verdicts[3].reason == "moves like another: cosine 1"


def test_sybils_at_sixty_degrees_weigh_half() -> None:
    # Cosine 0.5: the weight 0.5 has the logit 0, and 0.5 is added.
    like = [0.0, 0.0, 0.5, 0.75**0.5]
    weights = weights_of(judged(ALL, E1, E2, E3, like))
    assert weights == pytest.approx([1.0, 1.0, 0.5, 0.5], abs=1e-6)


def test_the_less_alike_is_pardoned_in_proportion() -> None:
    cosines = torch.tensor([[1.0, 0.4, 0.0], [0.4, 1.0, 0.8], [0.0, 0.8, 1.0]])
    # The first is like the second by 0.4, the second like the third by 0.8: 0.4 * 0.4 / 0.8.
    assert pardoned(cosines).tolist() == pytest.approx([0.2, 0.8, 0.8])


def test_updates_of_all_rounds_are_added_up() -> None:
    # In the second round the sybils hide: each moves somewhere else.
    spec = line_spec(4)
    first = ALL.screen(round_of(E1, E2, [0, 0, 9.0, 0], [0, 0, 9.0, 0]), spec, device=CPU)
    hidden = round_of(E1, E2, E3, [0, 0, 0, 1.0], number=2)
    alone = ALL.screen(hidden, spec, device=CPU)
    with_history = ALL.screen(hidden, spec, device=CPU, state=first.state)
    assert weights_of(alone) == [1.0] * 4
    assert weights_of(with_history)[2:] == [0.0, 0.0]
    assert with_history.state is not None
    assert with_history.state["sums"]["2"].tolist() == [0, 0, 10, 0]


def test_where_all_move_as_one_the_model_stays_and_it_is_said() -> None:
    screened = apply_screens([ALL], round_of(E1, E1, E1), line_spec(4), seed=0, device=CPU)
    assert screened.keep_sent == "every reply was left out"


def test_one_reply_is_not_taken_and_its_update_is_remembered() -> None:
    screening = judged(ALL, E1)
    assert screening.keep_sent is not None
    assert screening.state is not None
    assert screening.state["sums"]["0"].tolist() == E1


def test_those_not_seen_for_longest_are_forgotten() -> None:
    screen, state, spec = FoolsGold(features="all", most_nodes=2), None, line_spec(4)
    for number, nodes in enumerate([(1, 2), (2, 3)], 1):
        shown = round_of(E1, E2, number=number, nodes=nodes)
        state = screen.screen(shown, spec, device=CPU, state=state).state
    assert state is not None
    assert set(state["sums"]) == {"2", "3"}


@pytest.mark.parametrize("state", [
    {}, {"sums": {"1": torch.zeros(4)}, "seen": {"1": 1}},
    {"sums": {"1": torch.zeros(3).double()}, "seen": {"1": 1}},
    {"sums": {"1": torch.full((4,), torch.nan).double()}, "seen": {"1": 1}},
    {"sums": {"x": torch.zeros(4).double()}, "seen": {"x": 1}},
    {"sums": {"1": torch.zeros(4).double()}, "seen": {}},
])  # fmt: skip
def test_a_damaged_history_is_refused_and_begun_afresh(state: Any) -> None:
    shown, spec = round_of(E1, E2), line_spec(4)
    with pytest.raises(ValueError, match="state: "):
        ALL.screen(shown, spec, device=CPU, state=state)
    screened = apply_screens([ALL], shown, spec, seed=0, device=CPU, states={"0 FoolsGold": state})
    assert "state: " in screened.reports[0].details["memory_refused"]


def test_a_network_without_an_output_layer_is_refused_before_the_first_round() -> None:
    spec = ModelSpec(build=lambda: nn.Linear(2, 9), input_shape=(1, 1, 2), num_classes=3)
    with pytest.raises(ValueError, match="no linear layer with 3 outputs"):
        FoolsGold().check(spec.build(), spec)
    FoolsGold(features="all").check(spec.build(), spec)
