"""Screens in order: what one lets through the next sees, and each is held to its contract."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from fl_defense.model.spec import ModelSpec
from fl_defense.screens.apply import ScreenError, apply_screens, check_screens
from fl_defense.screens.base import Reply, Screen, ScreenedRound, Screening, Verdict

CPU = torch.device("cpu")
SPEC = ModelSpec(build=lambda: nn.Linear(1, 1), input_shape=(1, 1, 1), num_classes=2)
SENT = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
OUT = Verdict(weight=0, reason="out")


@dataclass(frozen=True, kw_only=True)
class Says(Screen):
    """A screen whose answer is given by a function of what it is shown and its state."""

    answer: Callable[[ScreenedRound, Any], Screening]
    seen: list[ScreenedRound] = field(default_factory=list)

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        del model, spec

    def screen(
        self, shown: ScreenedRound, spec: ModelSpec, *, device: torch.device, state: Any = None
    ) -> Screening:
        del spec, device
        self.seen.append(shown)
        return self.answer(shown, state)


def says(*verdicts: Verdict, **more: Any) -> Says:
    return Says(answer=lambda shown, state: Screening(verdicts=verdicts, **more))


def round_of(*nodes: int) -> ScreenedRound:
    replies = [Reply(node=node, arrays=SENT, num_examples=10.0) for node in nodes]
    return ScreenedRound(number=3, sent=SENT, replies=replies)


def run(*screens: Screen, nodes: tuple[int, ...] = (7, 8, 9), states: Any = None) -> Any:
    return apply_screens(screens, round_of(*nodes), SPEC, seed=0, device=CPU, states=states)


def test_the_next_screen_sees_what_the_one_before_let_through() -> None:
    other = {name: value + 1 for name, value in SENT.items()}
    first = says(Verdict(), OUT, Verdict(weight=0.5, reason="half", arrays=other, score=2.0))
    second = says(Verdict(score=1.0), Verdict(weight=0.5, reason="again", score=3.0))
    screened = run(first, second)
    (shown,) = second.seen
    assert [reply.node for reply in shown.replies] == [7, 9]
    assert [reply.num_examples for reply in shown.replies] == [10.0, 5.0]
    assert shown.replies[1].arrays is other
    assert [said.weight for said in screened.verdicts] == [1.0, 0.0, 0.25]
    assert [said.reason for said in screened.verdicts] == ["", "out", "half; again"]
    assert screened.verdicts[2].arrays is other
    assert screened.verdicts[2].score == 3.0
    assert [list(report.verdicts) for report in screened.reports] == [[7, 8, 9], [7, 9]]
    assert screened.keep_sent is None


def test_when_every_reply_is_left_out_the_model_stays_and_later_screens_do_not_run() -> None:
    later = says(Verdict())
    screened = run(says(OUT, OUT), later, nodes=(1, 2))
    assert screened.keep_sent == "every reply was left out"
    assert later.seen == []


def test_a_screen_may_ask_that_the_model_stays() -> None:
    later = says(Verdict())
    screened = run(says(Verdict(), keep_sent="too few replies"), later, nodes=(1,))
    assert screened.keep_sent == "too few replies"
    assert later.seen == []


def test_a_screen_says_whether_it_suspects_whom_it_weighs_less() -> None:
    assert [each.is_suspicion for each in (Verdict(), OUT, Verdict(weight=0.5, reason="far"))] == [
        False, True, True,
    ]  # fmt: skip
    weighs_all = Verdict(weight=0.5, reason="far", suspects=False)
    told = run(says(weighs_all, OUT), nodes=(1, 2)).reports[0].to_json()["verdicts"]
    assert [each.get("suspected") for each in told] == [False, None]


def test_any_screens_suspicion_counts() -> None:
    calm = says(Verdict())
    assert run(calm, nodes=(1,)).is_suspicious is False
    assert run(says(Verdict(), is_suspicious=True), calm, nodes=(1,)).is_suspicious is True


def test_states_go_back_to_their_own_screens() -> None:
    def count(shown: ScreenedRound, state: Any) -> Screening:
        number = (state or {"rounds": 0})["rounds"] + 1
        return Screening(verdicts=(Verdict(),), state={"rounds": number})

    counting, silent = Says(answer=count), says(Verdict())
    states = None
    for _ in range(3):
        states = run(counting, silent, nodes=(1,), states=states).states
    assert states == {"0 Says": {"rounds": 3}, "1 Says": None}


def test_a_refused_memory_is_dropped_and_told() -> None:
    def picky(shown: ScreenedRound, state: Any) -> Screening:
        if state is not None:
            raise ValueError("state: of another network")
        return Screening(verdicts=(Verdict(),), state={"fresh": 1})

    screened = run(Says(answer=picky), nodes=(1,), states={"0 Says": {"foreign": 1}})
    assert screened.keep_sent is None
    assert screened.states == {"0 Says": {"fresh": 1}}
    assert screened.reports[0].details["memory_refused"] == "state: of another network"


def test_a_screen_that_fails_lets_nothing_through() -> None:
    def fails(shown: ScreenedRound, state: Any) -> Screening:
        raise RuntimeError("out of luck")

    later = says(Verdict())
    screened = run(Says(answer=fails), later, nodes=(1,))
    assert screened.keep_sent is not None
    assert "RuntimeError: out of luck" in screened.keep_sent
    assert later.seen == []


def test_draws_depend_on_round_and_place_and_leave_the_global_state() -> None:
    drawn: list[float] = []

    def draws(shown: ScreenedRound, state: Any) -> Screening:
        drawn.append(torch.rand(()).item())
        return Screening(verdicts=(Verdict(),))

    before = torch.get_rng_state()
    run(Says(answer=draws), Says(answer=draws), nodes=(1,))
    run(Says(answer=draws), nodes=(1,))
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn[0] != drawn[1]
    assert drawn[0] == drawn[2]


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (Verdict(weight=1.5), r"weights must be in \[0, 1\], got 1.5"),
        (Verdict(weight=float("nan"), reason="x"), r"weights must be in \[0, 1\], got nan"),
        (Verdict(score=float("inf")), "scores must be finite"),
        (Verdict(weight=0), "must say why node 1 weighs 0"),
        (Verdict(arrays={"weight": torch.zeros(1, 1)}), "must be those sent out"),
        (
            Verdict(arrays={"weight": torch.zeros(2, 1), "bias": torch.zeros(1)}),
            "'weight' must stay",
        ),
        (
            Verdict(arrays={"weight": torch.full((1, 1), float("nan")), "bias": torch.zeros(1)}),
            "'weight' must be finite",
        ),
    ],
)
def test_a_broken_promise_is_told(verdict: Verdict, told: str) -> None:
    with pytest.raises(ScreenError, match=told):
        run(says(verdict), nodes=(1,))


def test_a_verdict_too_few_is_told() -> None:
    with pytest.raises(ScreenError, match="one verdict per reply, 2, got 1"):
        run(says(Verdict()), nodes=(1, 2))


def test_what_is_no_screen_is_refused() -> None:
    with pytest.raises(ValueError, match="screens must be screens such as"):
        check_screens([Says], SPEC)  # type: ignore[list-item]
