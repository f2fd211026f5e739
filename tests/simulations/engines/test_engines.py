"""The two engines run the same federation; whole runs on real images, small enough to be quick."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import flwr.simulation
import pytest
import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_defense.sanitizers import NoDefense
from simulations.attack.a3fl import A3FL
from simulations.attack.badnets import BadNets
from simulations.data import Digits
from simulations.engines import InProcessEngine, RayEngine
from simulations.engines.in_process import InProcessGrid
from simulations.federation.client_app import build_client_app
from simulations.federation.deterministic_grid import OrderedGrid
from simulations.federation.run import run_scenario
from simulations.federation.server import RunResult, start_model
from simulations.measurement.measured_round import MeasuredRound
from simulations.models.small_cnn import SmallCNN
from simulations.scenario.scenario import Clients, Repair, Scenario
from simulations.scenario.training import Training
from simulations.training import Cosine
from simulations.training.augmentation import Transform
from tests.quick import DEFENSE, SEARCH

SCENARIO = Scenario(
    name="small",
    rounds=2,
    data=Digits(max_train=200, max_test=100),
    model=SmallCNN(width=4),
    clients=Clients(count=4),
    training=Training(batch_size=16),
    attack=BadNets(malicious=0.25),
    defense=DEFENSE,
    repair=Repair(min_agreement=0, verify=SEARCH),
    engine=InProcessEngine(),
)


def with_changes(**changes: Any) -> Scenario:
    return SCENARIO.model_copy(update=changes)


def lines_without_times(result: RunResult) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (result.folder / "rounds.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("_seconds")} for line in lines]


def test_a_repetition_gives_the_same_lines(tmp_path: Path) -> None:
    first = lines_without_times(run_scenario(SCENARIO, tmp_path / "a"))
    again = lines_without_times(run_scenario(SCENARIO, tmp_path / "b"))
    assert first == again
    other = lines_without_times(run_scenario(with_changes(seed=1), tmp_path / "c"))
    assert first != other


def test_drawing_some_clients_is_reproducible_too(tmp_path: Path) -> None:
    some = with_changes(clients=Clients(count=4, per_round=2), rounds=3)
    first = lines_without_times(run_scenario(some, tmp_path / "a"))
    assert [line["num_replies"] for line in first] == [0, 2, 2, 2]
    assert first == lines_without_times(run_scenario(some, tmp_path / "b"))


@pytest.mark.wire
@pytest.mark.ray
def test_ray_agrees_with_one_process_to_the_bit(tmp_path: Path) -> None:
    """And so it repeats itself as that does: who trains where and answers first makes no odds."""
    told: list[MeasuredRound] = []
    training = Training(
        batch_size=16,
        steps=5,
        optimizer="adamw",
        learning_rate=0.003,
        learning_rate_schedule=Cosine(),
        max_gradient_norm=1.0,
        precision="bfloat16",
        augmentation="crop-flip",
        transforms=(Transform(name="RandomRotation", arguments={"degrees": 10}),),
    )
    alone = run_scenario(with_changes(training=training), tmp_path / "alone")
    by_ray = with_changes(training=training, engine=RayEngine())
    with_ray = run_scenario(by_ray, tmp_path / "ray", told.append)
    assert [record.round for record in told] == [0, 1, 2]
    assert lines_without_times(with_ray) == lines_without_times(alone)


def client_that(answer: Any) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(message, context)  # type: ignore[no-any-return]

    @app.query()
    def query(message: Message, context: Context) -> Message:
        number = MetricRecord({"partition-id": int(context.node_config["partition-id"])})
        return Message(RecordDict({"m": number}), reply_to=message)

    return app


def ask(grid: Grid) -> list[Message]:
    nodes = grid.get_node_ids()
    return list(grid.send_and_receive([Message(RecordDict(), node, "train") for node in nodes]))


def test_a_client_that_raises_becomes_an_error_reply() -> None:
    def raises(message: Message, context: Context) -> Message:
        raise ValueError("no data")

    (reply,) = ask(InProcessGrid(client_that(raises), 1))
    assert reply.has_error()
    assert reply.error.reason is not None
    assert "no data" in reply.error.reason


def test_a_client_gets_a_copy_of_the_message() -> None:
    def writes(message: Message, context: Context) -> Message:
        message.content["mine"] = MetricRecord({"a": 1})
        return Message(message.content, reply_to=message)

    grid = InProcessGrid(client_that(writes), 1)
    question = Message(RecordDict(), 1, "train")
    (reply,) = grid.send_and_receive([question])
    assert "mine" in reply.content
    assert "mine" not in question.content


def test_state_of_a_client_stays_from_message_to_message() -> None:
    def counts(message: Message, context: Context) -> Message:
        seen = context.state.metric_records.get("count", MetricRecord({"n": 0}))
        context.state["count"] = MetricRecord({"n": int(seen["n"]) + 1})  # type: ignore[arg-type]
        return Message(RecordDict({"count": context.state["count"]}), reply_to=message)

    grid = InProcessGrid(client_that(counts), 1)
    ask(grid)
    (reply,) = ask(grid)
    assert reply.content["count"]["n"] == 2  # type: ignore[index]


def test_pushed_messages_are_pulled() -> None:
    grid = InProcessGrid(client_that(lambda m, c: Message(RecordDict(), reply_to=m)), 2)
    names = grid.push_messages([Message(RecordDict(), 2, "train")])
    (reply,) = grid.pull_messages(names)
    assert reply.metadata.src_node_id == 2
    assert grid.pull_messages(names) == []


def test_replies_of_two_pushes_are_kept_apart() -> None:
    grid = InProcessGrid(client_that(lambda m, c: Message(RecordDict(), reply_to=m)), 3)
    first = grid.push_messages([Message(RecordDict(), node, "train") for node in (1, 2)])
    grid.pull_messages(first[:1])
    second = grid.push_messages([Message(RecordDict(), 3, "train")])
    replies = grid.pull_messages([*first[1:], *second])
    assert [reply.metadata.src_node_id for reply in replies] == [2, 3]


@pytest.mark.parametrize(
    ("device", "share", "reserved"),
    [("cpu", None, 0), ("cpu", 0.5, 0), ("auto", None, 0.125), ("cuda", 0.5, 0.5)],
)
def test_a_share_of_the_gpu_is_reserved_only_where_clients_use_it(
    device: Literal["auto", "cpu", "cuda"],
    share: float | None,
    reserved: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class ReachedError(Exception):
        pass

    def run_simulation(*, backend_config: dict[str, Any], **kwargs: Any) -> None:
        assert backend_config["client_resources"]["num_gpus"] == reserved
        assert (
            backend_config["init_args"]["address"] == "local"
        )  # not one that somebody else started
        raise ReachedError

    monkeypatch.setattr(flwr.simulation, "run_simulation", run_simulation)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ReachedError):
        run_scenario(
            with_changes(device=device, engine=RayEngine(gpus_per_client=share)), tmp_path / "out"
        )


def test_an_ordered_grid_lists_and_answers_by_partition() -> None:
    class Shuffled(InProcessGrid):
        """Numbers its nodes against their partitions, and answers in the order of the nodes."""

        def partition_of(self, node_id: int) -> int:
            return 4 - node_id

    app = client_that(lambda m, c: Message(RecordDict(), reply_to=m))
    grid = OrderedGrid(Shuffled(app, 4), 4, seed=0)
    assert grid.get_node_ids() == [4, 3, 2, 1]
    assert [reply.metadata.src_node_id for reply in ask(grid)] == [4, 3, 2, 1]
    assert grid.partition_of(4) == 0


class WithGoneClients(InProcessGrid):
    """Gives messages ids, and answers for some clients as Flower's SuperLink does."""

    NODE = 999
    gone: tuple[int, ...] = ()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        messages = list(messages)
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"to {message.metadata.dst_node_id}"
        replies = super().send_and_receive(messages, timeout=timeout)
        for index, message in enumerate(messages):
            if message.metadata.dst_node_id in self.gone:
                replies[index] = Message(Error(4, "node unavailable"), reply_to=message)
                replies[index].metadata.__dict__["_src_node_id"] = self.NODE
        return replies[::-1]


def test_an_error_for_a_client_that_is_gone_has_that_clients_place() -> None:
    app = client_that(lambda m, c: Message(RecordDict(), reply_to=m))
    inner = WithGoneClients(app, 3)
    grid = OrderedGrid(inner, 3, seed=0)
    grid.get_node_ids()
    inner.gone = (2,)
    assert [reply.metadata.src_node_id for reply in ask(grid)] == [1, inner.NODE, 3]
    assert grid.partition_of(inner.NODE) is None


def test_a_reply_to_nothing_that_was_asked_goes_last() -> None:
    class Confused(InProcessGrid):
        def send_and_receive(
            self, messages: Iterable[Message], *, timeout: float | None = None
        ) -> list[Message]:
            replies = super().send_and_receive(messages, timeout=timeout)
            if replies[0].metadata.message_type == "train":
                replies[0].metadata.__dict__["_src_node_id"] = 999
                replies[0].metadata.__dict__["_reply_to_message_id"] = "of another run"
            return replies

    app = client_that(lambda m, c: Message(RecordDict(), reply_to=m))
    grid = OrderedGrid(Confused(app, 3), 3, seed=0)
    assert [reply.metadata.src_node_id for reply in ask(grid)] == [2, 3, 999]


def test_what_the_server_raises_comes_out() -> None:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        raise RuntimeError("the server is out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        InProcessEngine().run(app, ClientApp(), 1, torch.device("cpu"))


def test_a_learned_trigger_is_measured_as_the_attackers_learned_it(tmp_path: Path) -> None:
    attack = A3FL(malicious=(1, 2), first_round=2, trigger_steps=2, trigger_batch=8)
    learning = with_changes(attack=attack, defense=NoDefense())
    grid = InProcessGrid(build_client_app(learning), 4)
    ordered = OrderedGrid(grid, 4, 0)
    nodes = ordered.get_node_ids()
    assert ordered.memory_of(1) == {}
    model = ArrayRecord(start_model(learning).state_dict())
    content = RecordDict({"arrays": model, "config": ConfigRecord({"server-round": 2})})
    list(ordered.send_and_receive([Message(content, node, MessageType.TRAIN) for node in nodes]))
    learned = ordered.memory_of(1)["pattern-0"]
    assert learned.shape == (1, 3, 3)
    assert torch.equal(learned, ordered.memory_of(2)["pattern-0"])
    assert ordered.memory_of(0) == {}
    # Both rounds are measured, the second with what was learned in it.
    first = lines_without_times(run_scenario(learning, tmp_path / "a"))
    assert first == lines_without_times(run_scenario(learning, tmp_path / "b"))
    assert [line["malicious"] for line in first] == [[], [], [1, 2]]
