from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from flwr.app import Message
from flwr.serverapp.strategy import FedAdam, FedAvg, Strategy
from torch import nn

from fl_defense.flower.batchnorm_policy import buffers_to_unify, unify_buffers
from fl_defense.flower.strategy import SanitizingStrategy
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import NoDefense

MakeReply = Callable[..., Message]


def test_buffers_become_their_weighted_mean_everywhere(reply: MakeReply) -> None:
    replies = [
        reply({"w": torch.zeros(2, 3), "n": torch.tensor(4)}, metrics={"num-examples": 1}),
        reply({"w": torch.ones(2, 3), "n": torch.tensor(8)}, metrics={"num-examples": 3}),
    ]
    means = unify_buffers(replies, ["w"], "num-examples")
    assert (means["w"] == 0.75).all()
    for each in replies:
        assert (each.content["arrays"]["w"].numpy() == 0.75).all()
    assert replies[0].content["arrays"]["n"].numpy() == 4


def test_no_minority_chooses_an_integer_or_a_boolean(reply: MakeReply) -> None:
    def sent(mask: list[bool], index: int) -> Message:
        content = {"mask": torch.tensor(mask), "index": torch.tensor([0, index])}
        return reply(content, metrics={"num-examples": 1})

    replies = [sent([True, False, False], 7) for _ in range(3)]
    replies += [sent([True, True, True], 2**53) for _ in range(2)]
    unified = unify_buffers(replies, ["mask", "index"], "num-examples")
    assert unified["mask"].tolist() == [1, 0, 0]
    assert unified["index"].tolist() == [0, 7]
    two = [sent([True, False, False], 7), sent([True, True, True], 9)]
    assert unify_buffers(two, ["index"], "num-examples")["index"].tolist() == [0, 7]


def test_without_replies_there_are_no_means() -> None:
    assert unify_buffers([], ["n"], "num-examples") == {}


@pytest.mark.parametrize(
    ("strategy", "policy", "expected"),
    [
        (FedAvg(), "auto", {"num_batches_tracked"}),
        (FedAvg(), "mean", {"num_batches_tracked", "running_mean", "running_var"}),
        (FedAdam(), "auto", {"num_batches_tracked", "running_mean", "running_var"}),
        (FedAdam(), "inner", {"num_batches_tracked"}),
    ],
)
def test_statistics_are_kept_from_server_optimizers(
    strategy: Strategy, policy: str, expected: set[str]
) -> None:
    assert set(buffers_to_unify(nn.BatchNorm2d(2), strategy, policy)) == expected


def test_a_wrapped_server_optimizer_counts(tiny_spec: ModelSpec) -> None:
    wrapper = SanitizingStrategy(FedAdam(), NoDefense(), tiny_spec, device="cpu")
    assert "running_var" in buffers_to_unify(nn.BatchNorm2d(2), wrapper, "auto")
