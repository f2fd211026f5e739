from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from flwr.app import Message
from flwr.serverapp.strategy import FedAdam, FedAvg, Strategy
from torch import nn

from fl_defense.buffers import buffers_to_unify, unify_buffers
from fl_defense.model_spec import ModelSpec
from fl_defense.sanitizers import NoDefense
from fl_defense.strategy import SanitizingStrategy

MakeReply = Callable[..., Message]


def test_buffers_become_their_weighted_mean_everywhere(reply: MakeReply) -> None:
    replies = [
        reply({"w": torch.zeros(2, 3), "n": torch.tensor(4)}, metrics={"num-examples": 1}),
        reply({"w": torch.ones(2, 3), "n": torch.tensor(8)}, metrics={"num-examples": 3}),
    ]
    means = unify_buffers(replies, ["n"], "num-examples")
    assert means["n"] == 7
    for each in replies:
        assert each.content["arrays"]["n"].numpy() == 7
    assert replies[0].content["arrays"]["w"].numpy().sum() == 0


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
