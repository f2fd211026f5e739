"""Half of the clients reply otherwise than the others, and come first."""

from collections.abc import Callable

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fl_defense.flower.replies import ReplyCheck
from fl_defense.flower.strategy import SanitizingStrategy
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.records import RoundOutcome
from fl_defense.sanitizers import NoDefense
from tests.fl_defense.flower.listed_grid import ListedGrid

Change = Callable[[RecordDict], None]


def renamed(content: RecordDict) -> None:
    content["another"] = content.array_records["arrays"]
    del content["arrays"]


def more_metrics(content: RecordDict) -> None:
    content.metric_records["metrics"]["extra"] = 1.0


def more_arrays(content: RecordDict) -> None:
    content.array_records["arrays"]["extra"] = ArrayRecord({"x": torch.ones(1)})["x"]


def another_record(content: RecordDict) -> None:
    content["more"] = ConfigRecord({"a": 1})


CHANGES: dict[str, Change] = {
    "arrays by another name": renamed,
    "an extra metric": more_metrics,
    "an extra array": more_arrays,
    "an extra record": another_record,
}


@pytest.mark.parametrize("kind", CHANGES)
def test_in_a_first_round_no_honest_client_is_lost(kind: str, tiny_spec: ModelSpec) -> None:
    outcomes: list[RoundOutcome] = []
    all_four = {"min_train_nodes": 4, "min_available_nodes": 4}
    strategy = SanitizingStrategy(FedAvg(**all_four), NoDefense(), tiny_spec, device="cpu",
                                  observe=outcomes.append)  # fmt: skip
    model = tiny_spec.build().state_dict()
    strategy.num_rounds = 1
    asked = strategy.configure_train(
        1, ArrayRecord(dict(model)), ConfigRecord(), ListedGrid([1, 2, 3, 4])
    )
    replies = []
    for question in sorted(asked, key=lambda message: message.metadata.dst_node_id):
        node = question.metadata.dst_node_id
        moved = {key: value + node if value.is_floating_point() else value
                 for key, value in model.items()}  # fmt: skip
        content = RecordDict({"arrays": ArrayRecord(moved),
                              "metrics": MetricRecord({"num-examples": 10})})  # fmt: skip
        if node <= 2:
            CHANGES[kind](content)
        replies.append(Message(content, reply_to=question))
    arrays, _ = strategy.aggregate_train(1, replies)
    assert [lost.node for lost in outcomes[-1].rejections] == [1, 2]
    assert arrays is not None
    name = next(name for name, value in model.items() if value.is_floating_point())
    found = arrays.to_torch_state_dict()[name]
    assert torch.allclose(found, model[name] + 3.5)  # of the clients 3 and 4 alone


def test_later_the_layout_of_the_round_before_is_taken(reply: Callable[..., Message]) -> None:
    good = {"w": torch.zeros(2)}
    more = {"num-examples": 10.0, "loss": 1.0}
    before = ReplyCheck().sort([reply(good, metrics=more)], ArrayRecord(dict(good)), "num-examples")
    replies = [reply(good, node=1), reply(good, node=2, metrics=more)]
    checked = ReplyCheck().sort(
        replies, ArrayRecord(dict(good)), "num-examples", last_layout=before.layout
    )
    assert [each.node for each in checked.rejected] == [1]
