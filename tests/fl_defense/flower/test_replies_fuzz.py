"""Random replies: the check never raises, and Flower can aggregate whatever passes it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedAvg, FedAvgM, FedMedian, MultiKrum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_defense.flower.replies import ReplyCheck

HONEST = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(5)}
REFERENCE = ArrayRecord(dict(HONEST))
HEADERS = st.fixed_dictionaries(
    {
        "descr": st.sampled_from(["<f4", ">f4", "<f8", "<i8", "|O", "<U9", "nonsense", [("a", "<f4")]]),
        "fortran_order": st.sampled_from([True, False, 1]),
        "shape": st.one_of(
            st.lists(st.integers(-1, 2**70), max_size=3).map(tuple), st.just((2, 3)), st.just(7)
        ),
    },
    optional={"more": st.just(1)},
)  # fmt: skip
names = st.one_of(st.sampled_from(["w", "n", "arrays", "metrics", "num-examples"]), st.text())


def with_header(header: dict[str, Any], data: bytes) -> bytes:
    text = repr(header).encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@st.composite
def mangled(draw: st.DrawFn, good: bytes) -> bytes:
    """Return good bytes with a part of them replaced."""
    start = draw(st.integers(0, len(good)))
    stop = draw(st.integers(start, len(good)))
    return good[:start] + draw(st.binary(max_size=40)) + good[stop:]


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    like = REFERENCE[draw(st.sampled_from(["w", "n"]))]
    data = draw(
        st.one_of(
            st.binary(max_size=200),
            mangled(like.data),
            st.builds(with_header, HEADERS, st.binary(max_size=50)),
            st.just(like.data),
        )
    )
    dtype = draw(st.sampled_from([like.dtype, "float64", "object", "", "nonsense"]))
    shape = draw(
        st.one_of(st.just(tuple(like.shape)), st.lists(st.integers(-1, 9), max_size=3).map(tuple))
    )
    stype = draw(st.sampled_from(["numpy.ndarray", "numpy.ndarray", "torch.Tensor", ""]))
    return Array(dtype, shape, stype, data)


numbers = st.one_of(
    st.floats(), st.integers(), st.sampled_from([0, -1, 10**400, 5e-324, 1.7e308, 1, 20])
)
metrics = st.dictionaries(
    names,
    st.one_of(numbers, st.lists(st.floats(), max_size=3), st.lists(st.integers(), max_size=3)),
    max_size=3,
)


@st.composite
def contents(draw: st.DrawFn) -> RecordDict:
    """Return what an honest client sends, with some of it replaced."""
    sent = dict(REFERENCE.items())
    sent |= draw(st.dictionaries(names, arrays(), max_size=2))
    for name in draw(st.sets(st.sampled_from(["w", "n"]), max_size=1)):
        del sent[name]
    told = {"num-examples": 10.0, "loss": 0.5} | draw(metrics)
    for name in draw(st.sets(st.sampled_from(["num-examples", "loss"]), max_size=1)):
        told.pop(name)
    content = RecordDict(
        {
            draw(st.sampled_from(["arrays", "arrays", "weights"])): ArrayRecord(sent),
            draw(st.sampled_from(["metrics", "metrics", "numbers"])): MetricRecord(told),
        }
    )
    if draw(st.booleans()) and draw(st.booleans()):
        content["more"] = MetricRecord({"a": 1})
    return content


AGGREGATORS: list[Callable[[], Any]] = [
    FedAvg,
    FedAvgM,
    FedMedian,
    lambda: MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3),
    lambda: Bulyan(num_malicious_nodes=0),
]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=contents(), place=st.integers(0, 4), aggregator=st.sampled_from(AGGREGATORS))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a tiny weight divides to zero
def test_what_passes_can_be_aggregated(
    reply: Callable[..., Message],
    content: RecordDict,
    place: int,
    aggregator: Callable[[], Any],
) -> None:
    told = {"num-examples": 10.0, "loss": 0.5}
    honest = [reply(HONEST, node=node, metrics=told) for node in (1, 2, 3, 4)]
    hostile = reply(HONEST, node=9)
    hostile.content = content
    replies = [*honest[:place], hostile, *honest[place:]]

    checked = ReplyCheck().sort(replies, REFERENCE, "num-examples")

    assert [each for each in checked.valid if each is not hostile] == honest
    assert len(checked.valid) + len(checked.rejected) == 5
    assert all(each.reason.isprintable() and each.reason for each in checked.rejected)
    strategy = aggregator()
    strategy.current_arrays = REFERENCE
    aggregate, _ = strategy.aggregate_train(1, checked.valid)
    assert aggregate is not None
    assert all(np.isfinite(array.numpy()).all() for array in aggregate.values())
