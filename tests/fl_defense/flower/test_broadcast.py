"""What evaluations measure where clients are sent another model than the released one."""

import logging
from collections.abc import Callable

import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg
from torch import nn

from fl_defense import ModelSpec, SanitizingStrategy
from tests.fl_defense.flower.test_strategy import Halve, ToyGrid, stays

WARNING = "evaluations measure the model that clients are sent, which is not the repaired one"


def evaluated(
    model: nn.Module, spec: ModelSpec, reply: Callable[..., Message], **settings: object
) -> tuple[list[float], list[float]]:
    """First weight as the server evaluates it in each round, and as clients are asked to."""
    key = next(iter(dict(model.named_parameters())))
    server: list[float] = []

    def evaluate(_: int, arrays: ArrayRecord) -> MetricRecord:
        server.append(arrays.to_torch_state_dict()[key].flatten()[0].item())
        return MetricRecord({"seen": 1.0})

    grid = ToyGrid([stays] * 2, reply)
    strategy = SanitizingStrategy(
        FedAvg(), Halve(), spec, device="cpu", min_agreement=0, verify=None,
        **settings,  # type: ignore[arg-type]
    )  # fmt: skip
    clients: list[float] = []
    configure = strategy.configure_evaluate

    def watch(server_round: int, arrays: ArrayRecord, *rest: object) -> object:
        messages = list(configure(server_round, arrays, *rest))  # type: ignore[arg-type]
        sent = messages[0].content["arrays"]
        assert isinstance(sent, ArrayRecord)
        clients.append(sent.to_torch_state_dict()[key].flatten()[0].item())
        return []

    strategy.configure_evaluate = watch  # type: ignore[method-assign, assignment]
    strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=2, evaluate_fn=evaluate)
    weight = dict(model.named_parameters())[key].flatten()[0].item()
    return [each / weight for each in server], [each / weight for each in clients]


def test_the_sent_model_is_evaluated_and_it_is_said_once(
    tiny_model: nn.Module,
    tiny_spec: ModelSpec,
    reply: Callable[..., Message],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "flwr"):
        server, clients = evaluated(tiny_model, tiny_spec, reply, broadcast="aggregate")
    assert server == pytest.approx([1, 1, 1])
    assert clients == pytest.approx([1, 1])
    assert sum(WARNING in record.getMessage() for record in caplog.records) == 1


def test_the_released_model_is_evaluated_on_request_by_server_and_clients(
    tiny_model: nn.Module,
    tiny_spec: ModelSpec,
    reply: Callable[..., Message],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "flwr"):
        server, clients = evaluated(
            tiny_model, tiny_spec, reply, broadcast="aggregate", evaluate_released=True
        )
    assert server == pytest.approx([1, 0.5, 0.5])
    assert clients == pytest.approx([0.5, 0.5])
    assert not any(WARNING in record.getMessage() for record in caplog.records)


def test_where_clients_are_sent_the_repaired_model_nothing_is_said(
    tiny_model: nn.Module,
    tiny_spec: ModelSpec,
    reply: Callable[..., Message],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "flwr"):
        server, _ = evaluated(tiny_model, tiny_spec, reply, broadcast="repaired")
    assert torch.tensor(server).tolist() == pytest.approx([1, 0.5, 0.25])
    assert not any(WARNING in record.getMessage() for record in caplog.records)
