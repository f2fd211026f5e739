"""Screens around every inner strategy: what is left out reaches none of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from flwr.app import Message
from torch import nn

from fl_defense.flower.checkpoint import CheckpointFile
from fl_defense.flower.strategy import SanitizingStrategy
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import NoDefense
from fl_defense.screens import NormClipping, Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.base import EarlierModel
from simulations.aggregators import FedAvg
from tests.fl_defense.flower.test_strategy import (
    INNER,
    NUM_CLIENTS,
    Client,
    Lab,
    drifts,
    inner_strategies,
    sends_nan,
    stays,
)
from tests.fl_defense.screens.test_peers import QUICK


@dataclass(frozen=True, kw_only=True)
class LeavesOut(Screen):
    """Leaves out given nodes, and counts its rounds."""

    nodes: tuple[int, ...]
    keep_sent: str | None = None
    suspicious_round: int = 0
    goes_back_in: int = 0

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        del model, spec

    def screen(
        self, shown: ScreenedRound, spec: ModelSpec, *, device: torch.device, state: Any = None
    ) -> Screening:
        del spec, device
        verdicts = tuple(
            Verdict(weight=0, reason="known", score=9.0)
            if reply.node in self.nodes
            else Verdict(score=1.0)
            for reply in shown.replies
        )
        state = state or {"rounds": 0, "first": dict(shown.sent)}
        rounds = state["rounds"] + 1
        goes_back = rounds == self.goes_back_in
        return Screening(
            verdicts=verdicts,
            keep_sent="taught before" if goes_back else self.keep_sent,
            send_again=EarlierModel(round=1, arrays=state["first"]) if goes_back else None,
            is_suspicious=rounds == self.suspicious_round,
            state={"rounds": rounds, "first": state["first"]},
        )


@pytest.fixture
def lab(tiny_model: nn.Module, tiny_spec: ModelSpec, reply: Callable[..., Message]) -> Lab:
    return Lab(tiny_model, tiny_spec, reply)


@pytest.mark.parametrize("name", INNER)
def test_a_reply_that_is_left_out_is_as_if_its_client_had_failed(lab: Lab, name: str) -> None:
    """The reply check drops NaN, the screen what looks right: the same in every bit."""
    dropped: list[Client] = [drifts] * (NUM_CLIENTS - 1) + [sends_nan]
    left_out: list[Client] = [drifts] * NUM_CLIENTS
    # The second round shows what a strategy remembers of the first.
    wanted = lab.run(inner_strategies()[name], NoDefense(), dropped, rounds=2, min_agreement=0)
    screens = [LeavesOut(nodes=(NUM_CLIENTS - 1,))]
    got = lab.run(inner_strategies()[name], NoDefense(), left_out, rounds=2, screens=screens)
    assert all(torch.equal(got[key], wanted[key]) for key in wanted)
    trained = lab.records[1:]
    assert [record.num_left_out for record in trained] == [1, 1]
    assert [record.num_replies for record in trained] == [NUM_CLIENTS - 1] * 2
    assert trained[0].details["left_out"] == [{"node": NUM_CLIENTS - 1, "reason": "known"}]


def test_the_record_holds_each_verdict(lab: Lab) -> None:
    lab.run(
        FedAvg().build(8, 8), NoDefense(), [stays] * 8, rounds=1, screens=[LeavesOut(nodes=(2,))]
    )
    (report,) = lab.records[1].details["screens"]
    assert report["screen"] == "LeavesOut"
    assert report["verdicts"][2] == {"node": 2, "weight": 0, "score": 9.0, "reason": "known"}
    assert report["verdicts"][3] == {"node": 3, "weight": 1.0, "score": 1.0, "reason": ""}
    assert lab.outcomes[1].screens[0].verdicts[2].weight == 0


def test_the_model_sent_out_stays_when_a_screen_says_so(lab: Lab) -> None:
    screens = [LeavesOut(nodes=(), keep_sent="too many suspects")]
    final = lab.run(FedAvg().build(8, 8), NoDefense(), [drifts] * 8, rounds=2, screens=screens)
    start = lab.model.state_dict()
    assert all(torch.equal(final[key], start[key]) for key in start)
    assert [record.details["kept_sent"] for record in lab.records[1:]] == ["too many suspects"] * 2
    assert [record.num_replies for record in lab.records[1:]] == [0, 0]


@pytest.mark.parametrize("name", INNER)
def test_an_earlier_model_is_sent_again_when_a_screen_says_so(lab: Lab, name: str) -> None:
    received: list[dict[str, torch.Tensor]] = []

    def drifts_and_tells(arrays: dict[str, torch.Tensor], node: int) -> dict[str, torch.Tensor]:
        if node == 0:
            received.append(dict(arrays))
        return drifts(arrays, node)

    screens = [LeavesOut(nodes=(), goes_back_in=2)]
    final = lab.run(inner_strategies()[name], NoDefense(), [drifts_and_tells] * NUM_CLIENTS,
                    rounds=3, screens=screens, min_agreement=0)  # fmt: skip
    first, second, third = received
    assert all(torch.equal(third[key], first[key]) for key in first)
    assert any(not torch.equal(second[key], first[key]) for key in first)
    told = lab.records[2]
    assert (told.details["kept_sent"], told.details["sent_again"]) == ("taught before", 1)
    assert lab.outcomes[2].sent is not None
    sent = lab.outcomes[2].sent.model.state_dict()
    assert all(torch.equal(sent[key].cpu(), first[key]) for key in first)
    # The third round goes on from there.
    assert any(not torch.equal(final[key], first[key]) for key in first)


def test_the_model_gone_back_to_is_the_one_released_at_the_end(lab: Lab) -> None:
    screens = [LeavesOut(nodes=(), goes_back_in=2)]
    final = lab.run(FedAvg().build(8, 8), NoDefense(), [drifts] * 8, rounds=2, screens=screens)
    start = lab.model.state_dict()
    assert all(torch.equal(final[key], start[key]) for key in start)


def test_clipped_arrays_are_what_is_aggregated(lab: Lab) -> None:
    def jumps(received: dict[str, torch.Tensor], node: int) -> dict[str, torch.Tensor]:
        moved = dict(received)
        name = next(iter(dict(lab.model.named_parameters())))
        moved[name] = received[name] + (100.0 if node == 0 else 0.0)
        return moved

    final = lab.run(FedAvg().build(8, 8), NoDefense(), [jumps] * 8, rounds=1,
                    screens=[NormClipping(max_norm=1e-3)])  # fmt: skip
    for key, value in lab.model.named_parameters():
        assert torch.allclose(final[key], value, atol=1e-3), key


@pytest.mark.parametrize(
    ("screens", "broadcast"), [([], "aggregate"), ([LeavesOut(nodes=())], "repaired")]
)
def test_clients_are_sent_repaired_models_where_attackers_are_left_out(
    lab: Lab, screens: Any, broadcast: str
) -> None:
    strategy = SanitizingStrategy(FedAvg().build(8, 8), NoDefense(), lab.spec, screens=screens)
    assert strategy._broadcasting.sends_repaired == (broadcast == "repaired")


def test_memories_are_in_the_checkpoint(lab: Lab, tmp_path: Any) -> None:
    file = CheckpointFile(path=tmp_path / "checkpoint")
    lab.run(FedAvg().build(8, 8), NoDefense(), [stays] * 8, rounds=2,
            screens=[LeavesOut(nodes=())], checkpoint_file=file)  # fmt: skip
    screens = file.read().carried.screens
    assert screens is not None
    assert screens["0 LeavesOut"]["rounds"] == 2


@pytest.mark.parametrize("name", QUICK)
def test_the_screens_of_the_literature_run_in_a_federation(
    lab: Lab, tmp_path: Any, name: str
) -> None:
    file = CheckpointFile(path=tmp_path / "checkpoint")
    screen = QUICK[name]
    lab.run(FedAvg().build(8, 8), NoDefense(), [drifts] * 8, rounds=2, screens=[screen],
            checkpoint_file=file, min_agreement=0)  # fmt: skip
    for record in lab.records[1:]:
        (said,) = record.details["screens"]
        assert (said["screen"], len(said["verdicts"])) == (type(screen).__name__, 8)
        assert "failed" not in record.details.get("kept_sent", "")
    states = file.read().carried.screens
    assert states is not None
    state = states[f"0 {type(screen).__name__}"]
    assert (state is not None) == (name == "foolsgold")
    if state is not None:
        assert set(state["seen"].values()) == {2}


def test_what_is_no_screen_is_refused_at_once(lab: Lab) -> None:
    with pytest.raises(ValueError, match="screens must be screens such as"):
        SanitizingStrategy(FedAvg().build(8, 8), NoDefense(), lab.spec, screens=[NormClipping])  # type: ignore[list-item]
