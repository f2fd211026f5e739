from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_defense.flower.replies import ReplyCheck

GOOD = {"w": torch.zeros(2, 3), "n": torch.tensor(5)}
REFERENCE = ArrayRecord(dict(GOOD))
MakeReply = Callable[..., Message]


def sort(replies: list[Message]) -> Any:
    return ReplyCheck().sort(replies, REFERENCE, "num-examples")


def test_honest_replies_pass_and_failures_are_counted(reply: MakeReply) -> None:
    replies = [reply(GOOD, node=1), reply(None, node=2), reply(GOOD, node=3)]
    checked = sort(replies)
    assert checked.valid == [replies[0], replies[2]]
    assert checked.rejected == []
    assert checked.failed[0].reason == "client died"


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({**GOOD, "w": torch.full((2, 3), float("nan"))}, "w: holds NaN or Inf"),
        ({**GOOD, "w": torch.full((2, 3), float("inf"))}, "w: holds NaN or Inf"),
        ({**GOOD, "w": torch.full((2, 3), 1e30)}, "w: holds a value above 1e+06"),
        ({**GOOD, "w": torch.zeros(3, 2)}, "w: must be float32[2, 3], got float32[3, 2]"),
        (
            {**GOOD, "w": torch.zeros(2, 3).half()},
            "w: must be float32[2, 3], got float16[2, 3]; send weights in the dtype in which they "
            "came",
        ),
        (
            {"w": GOOD["w"]},
            "unexpected or missing array 'n'; to federate a part of the model, "
            "let initial_arrays hold that part alone",
        ),
        (
            {**GOOD, "extra": torch.zeros(1)},
            "unexpected or missing array 'extra'; send back the arrays that were sent, "
            "and no others",
        ),
        (
            {f"module.{name}": value for name, value in GOOD.items()},
            "unexpected or missing array 'module.n' (DistributedDataParallel's prefix: send the "
            "state dict of what it wraps)",
        ),
    ],
)
def test_bad_arrays_are_rejected_with_node_and_reason(
    reply: MakeReply, arrays: Any, reason: str
) -> None:
    checked = sort([reply(GOOD, node=1), reply(arrays, node=9), reply(GOOD, node=2)])
    assert len(checked.valid) == 2
    assert [(r.node, r.reason) for r in checked.rejected] == [(9, reason)]


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"loss": 1.0}, "metric 'num-examples' must be one number"),
        ({"num-examples": 0}, "metric 'num-examples' must be positive, got 0"),
        ({"num-examples": -3}, "metric 'num-examples' must be positive, got -3"),
        ({"num-examples": float("nan")}, "metric 'num-examples' is not a finite number"),
        ({"num-examples": [1, 2]}, "metric 'num-examples' must be one number"),
        ({"num-examples": 0.5}, "metric 'num-examples' must be at least 1, got 0.5"),
        (
            {"num-examples": 10**9},
            "num-examples 1e+09 is above 1e+08; ReplyCheck(max_weight=1e+09) would admit it",
        ),
        (
            {"num-examples": 150},
            "num-examples 150 is above 10 times the median of the others, 10; "
            "ReplyCheck(max_weight_ratio=15) would admit it",
        ),
        ({"num-examples": 10, "extra": 1.0}, "unexpected or missing metric 'extra'"),
    ],
)
def test_bad_metrics_are_rejected(reply: MakeReply, metrics: Any, reason: str) -> None:
    honest = [reply(GOOD, node=node) for node in (1, 2)]
    checked = sort([*honest, reply(GOOD, node=9, metrics=metrics)])
    assert checked.valid == honest
    assert [r.reason for r in checked.rejected] == [reason]


def test_undecodable_bytes_are_rejected(reply: MakeReply) -> None:
    bad = reply(GOOD, node=9)
    bad.content["arrays"]["w"] = Array("float32", (2, 3), "numpy.ndarray", b"\x93NUMPY broken")
    assert [r.reason for r in sort([bad]).rejected] == [
        "w: cannot be decoded (no header of an array)"
    ]


def test_a_header_that_lies_about_its_bytes_is_rejected(reply: MakeReply) -> None:
    bad = reply(GOOD, node=9)
    bad.content["arrays"]["w"] = Array(
        "float32", (2, 3), "numpy.ndarray", Array(np.zeros((50, 50))).data
    )
    assert "got float64[50, 50]" in sort([bad]).rejected[0].reason


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=200),
    shape=st.lists(st.integers(0, 4), max_size=3),
    dtype=st.sampled_from(["float32", "float64", "int64", "object", "nonsense"]),
    examples=st.one_of(st.floats(), st.integers(-(2**40), 2**40)),
)
def test_whatever_one_client_sends_the_others_are_aggregated(
    reply: MakeReply, data: bytes, shape: list[int], dtype: str, examples: float
) -> None:
    honest = [reply(GOOD, node=node) for node in (1, 2, 3)]
    hostile = reply(GOOD, node=9, metrics={"num-examples": examples})
    hostile.content["arrays"]["w"] = Array(dtype, tuple(shape), "numpy.ndarray", data)
    checked = sort([*honest, hostile])
    assert checked.valid == honest
    assert [rejection.node for rejection in checked.rejected] == [9]


def test_no_replies_are_no_error() -> None:
    assert sort([]).valid == []


@pytest.mark.parametrize("fields", [{"max_weight_ratio": 0.5}, {"max_abs": 0.0}])
def test_refuses_meaningless_bounds(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        ReplyCheck(**fields)


@pytest.mark.parametrize("losses", [[1e308], [0.5, 1e308, 0.6, 0.4], [1e308] * 3, [0.5, 1e60]])
def test_a_loss_whose_power_overflows_is_dropped(reply: MakeReply, losses: list[float]) -> None:
    """QFedAvg weighs by the loss to the power q: a float that overflows raises in Python."""
    replies = [
        reply(GOOD, node=node, metrics={"num-examples": 10, "loss": loss})
        for node, loss in enumerate(losses)
    ]
    checked = ReplyCheck().sort(replies, REFERENCE, "num-examples", losses={"loss": 3.0})
    huge = [node for node, loss in enumerate(losses) if loss > 1]
    assert [each.node for each in checked.rejected] == huge
    assert "is too large to weigh a reply by its power 3" in checked.rejected[0].reason
