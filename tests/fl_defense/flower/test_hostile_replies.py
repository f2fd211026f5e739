"""A table of hostile replies under seven strategies: dropped, counted, and without any effect.

Each kind is sent to a round of training or of evaluation by one of four hostile clients among
eleven. The model afterwards is compared byte for byte with that of a round in which the hostile
ones do not answer.
"""

import copy
import gc
import io
import itertools
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import strategy as flower
from torch import nn

from fl_defense.flower.strategy import SanitizingStrategy
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.records import RoundOutcome
from fl_defense.rounds.schedule import Schedule
from fl_defense.sanitizers import NoDefense
from tests.fl_defense.flower.listed_grid import ListedGrid

HOSTILE = [1, 2, 3, 6]
"""Nodes that send one kind each; they answer first."""
NODES = [*HOSTILE, 5, 8, 13, 21, 34, 55, 89]
STRANGER = 4
"""A node that nobody asks."""


def build() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )


SPEC = ModelSpec(build=build, input_shape=(1, 4, 4), num_classes=3)
MODEL = {key: torch.full_like(value, 0.25 if value.is_floating_point() else 7)
         for key, value in build().state_dict().items()}  # fmt: skip
WEIGHT, MEAN, VARIANCE, COUNTER, HEAD = (
    "0.weight", "1.running_mean", "1.running_var", "1.num_batches_tracked", "4.bias"
)  # fmt: skip

ALL: dict[str, Any] = dict.fromkeys(
    ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"), len(NODES)
)
STRATEGIES: dict[str, Callable[[], flower.Strategy]] = {
    "fedavg": lambda: flower.FedAvg(**ALL),
    "fedavgm": lambda: flower.FedAvgM(**ALL, server_momentum=0.9),
    "fedadam": lambda: flower.FedAdam(**ALL),
    "fedmedian": lambda: flower.FedMedian(**ALL),
    "krum": lambda: flower.MultiKrum(**ALL, num_malicious_nodes=1, num_nodes_to_select=3),
    "bulyan": lambda: flower.Bulyan(**ALL, num_malicious_nodes=1),
    "qfedavg": lambda: flower.QFedAvg(**ALL, client_learning_rate=0.1, q=1.0),
}


def honest(question: Message) -> Message:
    """What a client with its own number of examples answers."""
    node = question.metadata.dst_node_id
    metrics = MetricRecord({"num-examples": 10 + node % 4, "train_loss": 0.5 + node / 100})
    content = RecordDict({"metrics": metrics})
    if question.metadata.message_type == "train":
        moved = {key: value + (node % 7) / 64 if value.is_floating_point() else value + 2
                 for key, value in MODEL.items()}  # fmt: skip
        content = RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics})
    return Message(content, reply_to=question)


Content = Callable[[RecordDict], None]
Answer = Callable[[Message], list[Message]]


class Round:
    """One round of a wrapped strategy whose messages have ids, as a SuperLink gives them."""

    def __init__(self, strategy: str, kind: str) -> None:
        self.outcomes: list[RoundOutcome] = []
        self.wrapped = SanitizingStrategy(
            STRATEGIES[strategy](), NoDefense(), SPEC, device="cpu", observe=self.outcomes.append,
            schedule=Schedule(every=None),
        )  # fmt: skip
        self.kind = kind

    def play(self, *answers: Answer) -> tuple[Any, Any]:
        """Let the hostile clients answer; return the arrays and Flower's metrics.

        A hostile client for whom there is no answer is silent.
        """
        wrapped, arrays = self.wrapped, ArrayRecord(dict(MODEL))
        wrapped.num_rounds = 2
        if self.kind == "train":
            asked = wrapped.configure_train(1, arrays, ConfigRecord(), ListedGrid(NODES))
            return wrapped.aggregate_train(1, self._replies(asked, answers))
        asked = wrapped.configure_evaluate(1, arrays, ConfigRecord(), ListedGrid(NODES))
        return arrays, wrapped.aggregate_evaluate(1, self._replies(asked, answers))

    def _replies(self, messages: Iterable[Message], answers: tuple[Answer, ...]) -> list[Message]:
        questions = {message.metadata.dst_node_id: message for message in messages}
        for node, question in questions.items():
            question.metadata.__dict__["_message_id"] = f"to {node}"
        replies = [
            reply for node, answer in zip(HOSTILE, answers, strict=False)
            for reply in answer(questions[node])
        ]  # fmt: skip
        return replies + [honest(questions[node]) for node in NODES if node not in HOSTILE]


# --- The table: what the hostile client sends in place of, or beside, its honest reply -----------


def instead(change: Content) -> Answer:
    """Send the honest reply with its content changed."""

    def answer(question: Message) -> list[Message]:
        reply = honest(question)
        change(reply.content)
        return [reply]

    return answer


def values(name: str, change: Callable[[Any], Any]) -> Content:
    def mutate(content: RecordDict) -> None:
        arrays = content.array_records["arrays"]
        arrays[name] = Array(np.asarray(change(arrays[name].numpy().copy())))

    return mutate


def raw(name: str, make: Callable[[Array], bytes]) -> Content:
    """Claim what is wanted and send other bytes."""

    def mutate(content: RecordDict) -> None:
        like = content.array_records["arrays"][name]
        content.array_records["arrays"][name] = Array(
            like.dtype, tuple(like.shape), like.stype, make(like)
        )

    return mutate


def claimed(name: str, **changes: Any) -> Content:
    """Send good bytes and claim something else."""

    def mutate(content: RecordDict) -> None:
        like = content.array_records["arrays"][name]
        told = {"dtype": like.dtype, "shape": tuple(like.shape), "stype": like.stype} | changes
        content.array_records["arrays"][name] = Array(data=like.data, **told)

    return mutate


def metric(key: str, value: Any) -> Content:
    def mutate(content: RecordDict) -> None:
        metrics = content.metric_records["metrics"]
        metrics.pop(key, None)
        if value is not None:
            metrics[key] = value

    return mutate


def header(shape: str, dtype: str = "<f4", version: int = 1) -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text


def zipped(like: Array) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.npy", like.data)
    return buffer.getvalue()


def filled(value: float, *, everywhere: bool) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array.flat[: None if everywhere else 1] = value
        return array

    return change


def rename(old: str, new: str) -> Content:
    def mutate(content: RecordDict) -> None:
        content[new] = content.pop(old)

    return mutate


def swap_kinds(content: RecordDict) -> None:
    arrays, metrics = content.pop("arrays"), content.pop("metrics")
    content["metrics"], content["arrays"] = arrays, metrics


def add(name: str, record: Any) -> Content:
    return lambda content: content.__setitem__(name, record)


def drop(*names: str) -> Content:
    def mutate(content: RecordDict) -> None:
        for name in names:
            del content[name]

    return mutate


def reorder(content: RecordDict) -> None:
    arrays = content.array_records["arrays"]
    name = next(iter(arrays))
    arrays[name] = arrays.pop(name)


def renamed_array(content: RecordDict) -> None:
    arrays = content.array_records["arrays"]
    arrays["mine"] = arrays.pop(WEIGHT)


def array_kinds() -> Iterator[tuple[str, Content]]:
    floats = (WEIGHT, MEAN, VARIANCE, HEAD)
    bad = [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 2e6]
    for name, value in itertools.product(floats, bad):
        yield f"{name} is {value}", values(name, filled(value, everywhere=name != WEIGHT))
    for value, everywhere in itertools.product((-1e-30, -0.1, -1e5), (True, False)):
        yield f"variance {value}{' everywhere' * everywhere}", values(
            VARIANCE, filled(value, everywhere=everywhere))  # fmt: skip
    for value in (-1, -(2**62), 2**62):
        yield f"counter {value}", values(COUNTER, lambda _, value=value: np.int64(value))
    for name in (WEIGHT, VARIANCE):
        yield f"{name} with one more dimension", values(name, lambda a: a[None])
        yield f"{name} flat", values(name, lambda a: a.reshape(-1, 1))
        yield f"{name} empty", values(name, lambda a: a[:0])
        yield f"{name} a scalar", values(name, lambda a: a.flat[0])
        yield f"{name} too large", values(name, lambda a: np.zeros((300, 300), a.dtype))
        for dtype in ("float64", "float16", "int32", "uint8", "bool", "complex64", ">f4"):
            yield f"{name} as {dtype}", values(name, lambda a, dtype=dtype: a.astype(dtype))
        yield f"{name} claims float64", claimed(name, dtype="float64")
        yield f"{name} claims nonsense", claimed(name, dtype="nonsense")
        yield f"{name} claims another shape", claimed(name, shape=(1, 1))
        yield f"{name} claims a negative shape", claimed(name, shape=(-1,))
        for text, make in {
            "no bytes": lambda like: b"",
            "noise": lambda like: bytes(range(256)) * 9,
            "a zip archive": zipped,
            "a pickle": lambda like: pickle.dumps([1, 2]),
            "half of it": lambda like: like.data[: len(like.data) // 2],
            "more than it": lambda like: like.data + b"1234",
            "a header alone": lambda like: header(repr(tuple(like.shape))),
            "a header of a terabyte": lambda like: header("(1099511627776,)"),
            "a header of objects": lambda like: header(repr(tuple(like.shape)), "|O"),
            "a header of version 3": lambda like: header(repr(tuple(like.shape)), version=3),
            "a header of a negative shape": lambda like: header("(-1,)"),
        }.items():
            yield f"{name}: {text}", raw(name, make)
    yield "array missing", lambda content: content.array_records["arrays"].__delitem__(HEAD)
    yield "array more", lambda content: content.array_records["arrays"].__setitem__(
        "more", Array(np.zeros(1)))  # fmt: skip
    yield "array renamed", renamed_array
    yield "arrays reordered", reorder
    yield "no arrays in the record", add("arrays", ArrayRecord())


def metric_kinds() -> Iterator[tuple[str, Content]]:
    examples = [None, 0, -3, -0.0, 0.5, 1e-300, 5e-324, float("nan"), float("inf"), -float("inf"),
                10**400, 1e18, 10**18, 1e9, 10**6, 5000, [], [20], [20, 20]]  # fmt: skip
    for value in examples:
        yield f"num-examples {str(value)[:12]}", metric("num-examples", value)
    for value in (None, float("nan"), float("inf"), -float("inf"), -(10**400), [0.5], []):
        yield f"train_loss {str(value)[:12]}", metric("train_loss", value)
    for value in (1.0, 1, float("nan"), [], [1.0, 2.0]):
        yield f"metric more {value}", metric("more", value)
    yield "a metric with a long name", metric("x" * 10**5, 1.0)
    yield "a metric with control characters", metric("a\n\x1b[31m", 1.0)
    yield "a metric without a name", metric("", 1.0)


def record_kinds() -> Iterator[tuple[str, Content]]:
    yield "metrics renamed", rename("metrics", "numbers")
    yield "no metrics", drop("metrics")
    yield "nothing", RecordDict.clear
    yield "two metrics", add("more", MetricRecord({"num-examples": 1}))
    yield "empty metrics more", add("more", MetricRecord())
    yield "an empty config more", add("config", ConfigRecord())
    yield "a config more", add("config", ConfigRecord({"a": 1, "b": b"bytes"}))
    yield "an array record more", add("more", ArrayRecord({"a": torch.zeros(1)}))
    yield "an empty array record more", add("more", ArrayRecord())
    yield "metrics are a config", add("metrics", ConfigRecord({"num-examples": 10}))


def training_record_kinds() -> Iterator[tuple[str, Content]]:
    yield "kinds swapped", swap_kinds
    yield "arrays renamed", rename("arrays", "weights")
    yield "no array record", drop("arrays")
    yield "arrays are metrics", add("arrays", MetricRecord({"num-examples": 1}))
    yield "arrays twice", lambda content: content.__setitem__("more", content["arrays"])
    yield "metrics alone, under the arrays' name", lambda content: content.__setitem__(
        "arrays", content.pop("metrics"))  # fmt: skip


def labelled(question: Message, **changes: Any) -> Message:
    """Return the honest reply with its metadata changed."""
    reply = honest(question)
    for name, value in changes.items():
        reply.metadata.__dict__[f"_{name}"] = value
    return reply


def bare(question: Message) -> Message:
    reply = honest(question)
    reply.__dict__["_content"] = None
    return reply


MESSAGES: dict[str, Answer] = {
    f"{name} {str(value)!r}": lambda question, name=name, value=value: [
        labelled(question, **{name: value})
    ]
    for name, values_ in {
        "src_node_id": (STRANGER, 0, -1, 2**63, None),
        "dst_node_id": (STRANGER, HOSTILE[0]),
        "run_id": (99, -1),
        "message_type": ("query", "train.other", "evaluate.other", "system", "", "\n"),
        "reply_to_message_id": ("", "to 5", "of an earlier round", "x" * 10**4),
    }.items()
    for value in values_
} | {
    "neither content nor error": lambda question: [bare(question)],
    "as another node": lambda question: [labelled(question, src_node_id=5)],
}  # fmt: skip
ERRORS: dict[str, Answer] = {
    f"error {code} {reason[:9]!r}": lambda question, code=code, reason=reason: [
        Message(Error(code, reason), reply_to=question)
    ]
    for code, reason in itertools.product(
        (0, 1, -5), ("", "client died", "x" * 10**5, "\n\x1b[2J\u202e")
    )
} | {"an error without a reason": lambda question: [Message(Error(1), reply_to=question)]}  # fmt: skip
BESIDE: dict[str, Answer] = {
    "the same twice": lambda question: [honest(question)],
    "the same object twice": lambda question: [honest(question)],
    "a second with other weights": instead(values(WEIGHT, lambda a: a + 1)),
    "a second that is broken": instead(RecordDict.clear),
    "a second error": lambda question: [Message(Error(1, "died"), reply_to=question)],
    "one of a stranger": lambda question: [labelled(question, src_node_id=STRANGER)],
    "one to an earlier round": lambda question: [labelled(question, reply_to_message_id="old")],
    "one of another type": lambda question: [labelled(question, message_type="query")],
    "ten of strangers": lambda question: [
        labelled(question, src_node_id=1000 + n) for n in range(10)
    ],
}

TRAIN: dict[str, Answer] = {
    name: instead(change)
    for name, change in (
        *array_kinds(), *metric_kinds(), *record_kinds(), *training_record_kinds()
    )
} | MESSAGES | ERRORS  # fmt: skip
EVALUATE: dict[str, Answer] = {
    name: instead(change) for name, change in (*metric_kinds(), *record_kinds())
} | MESSAGES | ERRORS  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def in_seconds() -> Iterator[None]:
    """Flower collects garbage after every reply: minutes, with torch loaded; few scenes will do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda: 0)
        patch.setattr("fl_defense.rounds.gate.NUM_IMAGES", 16)
        yield


def test_the_table_is_as_large_as_it_says() -> None:
    assert (len(TRAIN) >= 170, len(EVALUATE) >= 75) == (True, True)


@pytest.fixture(scope="module")
def expected() -> Callable[[str, str, bool], tuple[Any, Any]]:
    """What a round gives with, or without, an honest reply of the first one, computed once."""
    known: dict[tuple[str, str, bool], tuple[Any, Any]] = {}

    def find(strategy: str, kind: str, replies: bool) -> tuple[Any, Any]:
        key = strategy, kind, replies
        if key not in known:
            known[key] = Round(strategy, kind).play(
                *([lambda question: [honest(question)]] if replies else [])
            )
        return known[key]

    return find


def nodes_lost(round_: Round, metrics: Any, logged: str) -> list[int]:
    """Return the nodes that the log names, which are as many as were counted."""
    if round_.kind == "train":
        record = round_.outcomes[-1].record
        count = record.num_rejected + record.num_failures
    else:
        count = metrics["defense-rejected"] + metrics["defense-failures"]
    nodes = re.findall(r"node (\S+) is lost: ", logged)
    assert len(nodes) == count
    return [int(node) for node in nodes if node != "None"]


def without_counts(metrics: Any) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if not key.startswith("defense-")}


def check(
    strategy: str, kind: str, answers: list[Answer], expected: Any, logged: Any, *, beside: bool
) -> None:
    wanted_arrays, wanted_metrics = expected(strategy, kind, beside)
    round_ = Round(strategy, kind)
    logged.clear()

    def sender(answer: Answer) -> Answer:
        def send(question: Message) -> list[Message]:
            # Copied: what a kind adds to a record must not reach the next strategy.
            sent = copy.deepcopy(answer(question))
            return [honest(question), *sent] if beside else sent

        return send

    arrays, metrics = round_.play(*map(sender, answers))
    assert arrays == wanted_arrays, strategy
    assert list(arrays) == list(wanted_arrays), strategy
    assert without_counts(metrics) == without_counts(wanted_metrics), strategy
    lost = nodes_lost(round_, metrics, logged.text)
    if beside:
        assert len(lost) > len(HOSTILE) - 1, strategy  # what is beside, and the silent ones
    else:
        assert set(HOSTILE) <= set(lost), strategy


def in_batches(table: dict[str, Answer]) -> list[Any]:
    """The kinds of a table, as many at a time as there are hostile clients."""
    names = list(table)
    return [
        pytest.param(batch, id=" | ".join(batch)[:200])
        for batch in (names[i : i + len(HOSTILE)] for i in range(0, len(names), len(HOSTILE)))
    ]


@pytest.mark.parametrize("names", in_batches(TRAIN))
def test_hostile_training_replies_have_no_effect_and_are_counted(
    names: list[str], expected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for strategy in STRATEGIES:
        answers = [TRAIN[name] for name in names]
        check(strategy, "train", answers, expected, caplog, beside=False)


@pytest.mark.parametrize("names", in_batches(EVALUATE))
def test_hostile_evaluation_replies_have_no_effect_and_are_counted(
    names: list[str], expected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for strategy in STRATEGIES:
        answers = [EVALUATE[name] for name in names]
        check(strategy, "evaluate", answers, expected, caplog, beside=False)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("name", BESIDE)
def test_a_reply_beside_the_right_one_has_no_effect_and_is_counted(
    name: str, kind: str, expected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "evaluate" and "weights" in name:
        name = "the same twice"
    for strategy in STRATEGIES:
        check(strategy, kind, [BESIDE[name]], expected, caplog, beside=True)
