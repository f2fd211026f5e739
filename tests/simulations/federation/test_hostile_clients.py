"""Whatever one client sends, the run goes on, counts it, and ends as if it had not been asked."""

import io
import json
import pickle
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fl_defense.flower.strategy import SanitizingStrategy
from fl_defense.rounds.records import RoundOutcome
from fl_defense.sanitizers import NoDefense
from simulations.aggregators import FedAvg, FedAvgM
from simulations.data import Digits
from simulations.engines import InProcessEngine
from simulations.engines.in_process import InProcessGrid
from simulations.engines.local_grid import set_task_identity
from simulations.federation.client_app import build_client_app
from simulations.federation.deterministic_grid import OrderedGrid
from simulations.federation.preflight import check_scenario
from simulations.federation.server import initial_model, serve
from simulations.measurement.recorder import FederationError
from simulations.measurement.results_folder import ResultsFolder
from simulations.models.small_cnn import SmallCNN
from simulations.scenario.scenario import Clients, Scenario
from simulations.scenario.training import Training

SCENARIO = Scenario(
    name="hostile",
    rounds=1,
    data=Digits(max_train=60, max_test=20),
    model=SmallCNN(width=4),
    clients=Clients(count=3),
    training=Training(batch_size=16),
    engine=InProcessEngine(),
)
HOSTILE = 0
"""The first partition: what it sends would be the pattern for the others' replies."""
TERABYTE = 2**40

Mutation = Callable[[RecordDict], None]


def first_array(content: RecordDict) -> tuple[ArrayRecord, str, np.ndarray[Any, Any]]:
    arrays = content.array_records["arrays"]
    name = next(iter(arrays))
    return arrays, name, arrays[name].numpy()


def with_values(change: Callable[[Any], Any]) -> Mutation:
    """Change the first array and let it tell the truth about itself."""

    def mutate(content: RecordDict) -> None:
        arrays, name, values = first_array(content)
        arrays[name] = Array(np.asarray(change(values)))

    return mutate


def with_bytes(make: Callable[[Array], bytes]) -> Mutation:
    """Claim what is wanted and send other bytes."""

    def mutate(content: RecordDict) -> None:
        arrays, name, _ = first_array(content)
        like = arrays[name]
        arrays[name] = Array(like.dtype, tuple(like.shape), like.stype, make(like))

    return mutate


def with_metrics(**metrics: Any) -> Mutation:
    def mutate(content: RecordDict) -> None:
        for key, value in metrics.items():
            name = key.replace("_", "-")
            if value is None:
                del content.metric_records["metrics"][name]
            else:
                content.metric_records["metrics"][name] = value

    return mutate


def npy_header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def zip_archive(like: Array) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.npy", like.data)
    return buffer.getvalue()


def reorder(content: RecordDict) -> None:
    arrays = content.array_records["arrays"]
    name = next(iter(arrays))
    arrays[name] = arrays.pop(name)


def rename_array(content: RecordDict) -> None:
    arrays = content.array_records["arrays"]
    arrays["mine"] = arrays.pop(next(iter(arrays)))


def rename_record(content: RecordDict) -> None:
    content["weights"] = content.pop("arrays")


def two_array_records(content: RecordDict) -> None:
    content["more"] = content["arrays"]


def wipe(content: RecordDict) -> None:
    content.clear()


HUGE = 10**400
"""A Python integer beyond any float."""

MUTATIONS: dict[str, tuple[Mutation, str]] = {
    "nan": (with_values(lambda v: v * np.float32("nan")), "holds NaN or Inf"),
    "inf": (with_values(lambda v: v + np.float32("inf")), "holds NaN or Inf"),
    "huge values": (with_values(lambda v: v * 0 + np.float32(1e30)), "holds a value above 1e+06"),
    "shape": (with_values(lambda v: v[None]), "must be float32"),
    "oversize": (with_values(lambda v: np.zeros((1000, 1000), np.float32)), "must be float32"),
    "empty": (with_values(lambda v: v[:0]), "must be float32"),
    "dtype": (with_values(lambda v: v.astype(np.float64)), "got float64"),
    "big endian": (with_values(lambda v: v.astype(">f4")), "got >f4"),
    "complex": (with_values(lambda v: v.astype(np.complex64)), "got complex64"),
    "renamed array": (rename_array, "unexpected or missing array"),
    "other order": (reorder, "arrays are in another order"),
    "renamed record": (rename_record, "unexpected or missing array record 'arrays'"),
    "two array records": (two_array_records, "must hold one ArrayRecord and one MetricRecord"),
    "nothing": (wipe, "must hold one ArrayRecord and one MetricRecord"),
    "no bytes": (with_bytes(lambda like: b""), "cannot be decoded (no header of an array)"),
    "noise": (
        with_bytes(lambda like: bytes(range(256)) * 9),
        "cannot be decoded (no header of an array)",
    ),
    "zip archive": (with_bytes(zip_archive), "cannot be decoded (no header of an array)"),
    "pickle": (
        with_bytes(lambda like: pickle.dumps([1])),
        "cannot be decoded (no header of an array)",
    ),
    "cut off": (with_bytes(lambda like: like.data[:-4]), "its bytes do not fill its shape"),
    "too many bytes": (with_bytes(lambda like: like.data * 2), "its bytes do not fill its shape"),
    "other bytes": (
        with_bytes(lambda like: Array(np.zeros((50, 50))).data),
        "got float64[50, 50]",
    ),
    "claims a terabyte": (with_bytes(lambda like: npy_header(f"({TERABYTE},)")), "must be float32"),
    "claims objects": (with_bytes(lambda like: npy_header("(1,)", "|O")), "got object[1]"),
    "header of code": (
        with_bytes(lambda like: npy_header("(__import__('os').getpid(),)")),
        "cannot be decoded (no header of an array)",
    ),
    "header of a later version": (
        with_bytes(lambda like: b"\x93NUMPY\x07\x00" + like.data[8:]),
        "cannot be decoded (no header of an array)",
    ),
    "no examples": (with_metrics(num_examples=0), "must be positive, got 0"),
    "negative examples": (with_metrics(num_examples=-20), "must be positive, got -20"),
    "nan examples": (with_metrics(num_examples=float("nan")), "is not a finite number"),
    "inf examples": (with_metrics(num_examples=float("inf")), "is not a finite number"),
    "huge examples": (with_metrics(num_examples=10**9), "is above 1e+08"),
    "unthinkable examples": (with_metrics(num_examples=HUGE), "is not a finite number"),
    "list of examples": (with_metrics(num_examples=[20]), "must be one number"),
    "missing examples": (with_metrics(num_examples=None), "must be one number"),
    "extra metric": (with_metrics(extra=1.0), "unexpected or missing metric 'extra'"),
    "missing metric": (with_metrics(train_loss=None), "missing metric 'train-loss'"),
    "listed metric": (with_metrics(train_loss=[1.0, 2.0]), "list of 2 as metric 'train-loss'"),
    "nan metric": (with_metrics(train_loss=float("nan")), "is not a finite number"),
    "long name": (with_metrics(**{"x" * 10**5: 1.0}), "unexpected or missing metric 'xxx"),
    "control characters": (
        with_metrics(**{"a\n\x1b[31m": 1.0}),
        r"unexpected or missing metric 'a\n\x1b[31m'",
    ),
}


def client_app(answer: Callable[[Message, RecordDict], None]) -> ClientApp:
    """Return honest clients, but for one whose reply `answer` changes before it is sent."""
    honest = build_client_app(SCENARIO)

    def hostile(message: Message, context: Context) -> Message:
        reply = honest(message, context)
        if context.node_config["partition-id"] == HOSTILE and reply.content.array_records:
            answer(message, reply.content)
        return reply

    return hostile  # type: ignore[return-value]


class Absent(InProcessGrid):
    """The same clients without the hostile one."""

    def get_node_ids(self) -> list[int]:
        return [node for node in super().get_node_ids() if node != HOSTILE + 1]


def run(grid: Grid, num_clients: int, inner: Any = None) -> tuple[ArrayRecord, RoundOutcome]:
    outcomes: list[RoundOutcome] = []
    strategy = SanitizingStrategy(
        (inner or FedAvg()).build(num_clients, num_clients), NoDefense(), SCENARIO.model_spec(),
        device="cpu", observe=outcomes.append,
    )  # fmt: skip
    ordered = OrderedGrid(grid, num_clients, seed=0)
    initial = ArrayRecord(initial_model(SCENARIO.model_spec(), 0).state_dict())
    result = strategy.start(ordered, initial, num_rounds=1, timeout=50)
    return result.arrays, outcomes[-1]


@pytest.fixture(scope="module")
def without_it() -> ArrayRecord:
    set_task_identity()
    arrays, outcome = run(Absent(build_client_app(SCENARIO), 3), 2)
    assert outcome.record.num_replies == 2
    return arrays


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_hostile_reply_is_as_if_its_client_had_not_been_asked(
    name: str, without_it: ArrayRecord
) -> None:
    mutate, reason = MUTATIONS[name]
    arrays, outcome = run(InProcessGrid(client_app(lambda _, content: mutate(content)), 3), 3)
    assert arrays == without_it
    assert (outcome.record.num_replies, outcome.record.num_rejected) == (2, 1)
    (rejection,) = outcome.rejections
    assert rejection.node == HOSTILE + 1
    assert reason in rejection.reason
    assert len(rejection.reason) <= 200
    assert rejection.reason.isprintable()


def test_the_order_of_arrays_matters_to_flower(without_it: ArrayRecord) -> None:
    """FedAvgM pairs arrays by position: unchecked, this reply would end the run."""
    arrays, outcome = run(
        InProcessGrid(client_app(lambda _, content: reorder(content)), 3), 3, FedAvgM()
    )
    assert outcome.record.num_rejected == 1
    assert list(arrays) == list(without_it)


def raises(message: Message, content: RecordDict) -> None:
    raise MemoryError("too\nbig\x1b")


def exits(message: Message, content: RecordDict) -> None:
    raise SystemExit(1)


def dawdles(message: Message, content: RecordDict) -> None:
    time.sleep(0.01)
    later = time.monotonic
    time.monotonic = lambda: later() + 60


@pytest.mark.parametrize(
    ("misbehave", "reason"),
    [(raises, "MemoryError: too big"), (exits, "SystemExit: 1"), (dawdles, "no answer in time")],
)
def test_a_client_without_an_answer_is_as_if_it_had_not_been_asked(
    misbehave: Any, reason: str, without_it: ArrayRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", time.monotonic)
    arrays, outcome = run(InProcessGrid(client_app(misbehave), 3), 3)
    assert arrays == without_it
    assert (outcome.record.num_replies, outcome.record.num_failures) == (2, 1)
    (failure,) = outcome.failures
    assert (failure.node, failure.reason) == (HOSTILE + 1, reason)


def serve_with(
    out: Path, scenario: Scenario, app: Callable[[Message, Context], Message]
) -> list[dict[str, Any]]:
    grid = InProcessGrid(app, scenario.clients.count)  # type: ignore[arg-type]
    folder = ResultsFolder.begin(out, scenario)
    try:
        serve(grid, scenario, check_scenario(scenario), folder)
    finally:
        lines = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    return lines


def failing(
    scenario: Scenario, share: Callable[[int], bool]
) -> Callable[[Message, Context], Message]:
    honest = build_client_app(scenario)

    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train" and share(
            int(context.node_config["partition-id"])
        ):
            raise OSError("disk full")
        return honest(message, context)

    return app


def test_half_of_the_clients_may_fail(tmp_path: Path) -> None:
    scenario = SCENARIO.model_copy(update={"rounds": 2, "clients": Clients(count=4)})
    lines = serve_with(
        tmp_path / "out", scenario, failing(scenario, lambda partition: partition % 2 == 0)
    )
    assert [line["num_replies"] for line in lines] == [0, 2, 2]
    assert lines[2]["details"]["failures"] == [
        {"client": client, "reason": "OSError: disk full"} for client in (0, 2)
    ]


class WithoutSome(InProcessGrid):
    """Answers for the second client as Flower's SuperLink does for one that is gone."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        replies = super().send_and_receive(messages, timeout=timeout)
        for index, reply in enumerate(replies):
            if reply.metadata.message_type == "train" and reply.metadata.src_node_id == 2:
                replies[index] = Message(Error(4, "node unavailable"), reply_to=reply)
                replies[index].metadata.__dict__["_src_node_id"] = 999
        return replies


def test_a_client_that_is_gone_does_not_stop_the_run(tmp_path: Path) -> None:
    folder = ResultsFolder.begin(tmp_path / "out", SCENARIO)
    grid = WithoutSome(build_client_app(SCENARIO), 3)
    result = serve(grid, SCENARIO, check_scenario(SCENARIO), folder)
    record = result.records[-1].record
    assert record.num_replies == 2
    assert "node unavailable" in [lost["reason"] for lost in record.details["failures"]]


def test_when_all_clients_fail_the_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match=r"round 1: no client is left \(3 failed"):
        serve_with(tmp_path / "out", SCENARIO, failing(SCENARIO, lambda partition: True))


@pytest.mark.parametrize(
    "answer",
    [
        RecordDict(),
        RecordDict({"m": MetricRecord({"partition-id": 1})}),
        RecordDict({"m": MetricRecord({"partition-id": -4})}),
        RecordDict({"m": MetricRecord({"partition-id": [0, 1]})}),
        RecordDict({"m": MetricRecord({"partition-id": 0.5})}),
        RecordDict({"m": MetricRecord({"a": 1}), "n": MetricRecord({"b": 1})}),
    ],
)
def test_a_client_that_lies_about_its_partition_gets_the_one_that_is_left(
    answer: RecordDict,
) -> None:
    honest = build_client_app(SCENARIO)

    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query" and context.node_id == 3:
            return Message(answer, reply_to=message)
        return honest(message, context)

    ordered = OrderedGrid(InProcessGrid(app, 3), 3, seed=0)  # type: ignore[arg-type]
    assert ordered.get_node_ids() == [1, 2, 3]
    assert ordered.partition_of(3) == 2
