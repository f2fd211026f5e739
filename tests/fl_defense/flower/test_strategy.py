"""The wrapper over every inner strategy, with clients whose answers are known by hand."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.server.strategy import FedAvg as OlderFedAvg
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedProx
from torch import Tensor, nn

from fl_defense.flower.checkpoint import Carried, Checkpoint, CheckpointFile
from fl_defense.flower.packing import CheckpointError
from fl_defense.flower.strategy import SanitizingStrategy
from fl_defense.inspections import TriggerSearch
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.records import RoundOutcome
from fl_defense.rounds.schedule import Schedule
from fl_defense.sanitizers import DHBE, NoDefense, Sanitized, Sanitizer
from fl_defense.screens.base import Screen, Screening, Verdict
from fl_defense.testing import small_spec
from simulations.aggregators import AGGREGATORS, Bulyan, FedAvg, Krum, MultiKrum
from tests.fl_defense.flower.listed_grid import ListedGrid
from tests.quick import SEARCH

Client = Callable[[dict[str, Tensor], int], Mapping[str, Tensor] | None]
NUM_CLIENTS = 8


class ToyGrid(ListedGrid):
    """Clients as functions of (received arrays, own number); None stands for a failure."""

    def __init__(self, clients: list[Client], reply: Callable[..., Message]) -> None:
        super().__init__(range(len(clients)))
        self.clients, self.reply = clients, reply
        self.sent: list[ArrayRecord] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        replies = []
        for message in sorted(messages, key=lambda m: m.metadata.dst_node_id):
            node = message.metadata.dst_node_id
            arrays = message.content["arrays"]
            assert isinstance(arrays, ArrayRecord)
            self.sent.append(arrays)
            metrics = {"num-examples": 10 + node, "train_loss": 0.5}
            answer = self.clients[node](arrays.to_torch_state_dict(), node)
            replies.append(self.reply(answer, node=node, metrics=metrics))
        return replies


def stays(received: dict[str, Tensor], node: int) -> dict[str, Tensor]:
    return received


def fails(received: dict[str, Tensor], node: int) -> None:
    return None


def sends_nan(received: dict[str, Tensor], node: int) -> dict[str, Tensor]:
    return {
        name: value * float("nan") if value.is_floating_point() else value
        for name, value in received.items()
    }


def drifts(received: dict[str, Tensor], node: int) -> dict[str, Tensor]:
    """Like training: weights move, variances stay positive, counters count."""
    moved = {}
    for name, value in received.items():
        if not value.is_floating_point():
            moved[name] = value + 5
        elif name.endswith("running_var"):
            moved[name] = value * (0.5 + 0.05 * node)
        else:
            moved[name] = value + 0.01 * (node + 1)
    return moved


@dataclass(frozen=True)
class Halve(Sanitizer):
    """Halves every parameter: easy to follow through the rounds."""

    changes_models: ClassVar[bool] = True

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: Any = None, reference: Any = None
    ) -> Sanitized:
        model = copy.deepcopy(suspect)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.5)
        return Sanitized(model=model, state={"calls": (state or {"calls": 0})["calls"] + 1})


@dataclass(frozen=True)
class Breaks(Sanitizer):
    changes_models: ClassVar[bool] = True

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: Any = None, reference: Any = None
    ) -> Sanitized:
        raise RuntimeError("out of luck")


@dataclass(frozen=True)
class Ruins(Sanitizer):
    """Makes a model that answers one class whatever it sees."""

    changes_models: ClassVar[bool] = True

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: Any = None, reference: Any = None
    ) -> Sanitized:
        model = copy.deepcopy(suspect)
        head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.arange(len(head.bias)).float())
        return Sanitized(model=model)


class Lab:
    """Runs a wrapped strategy over toy clients and keeps what was observed."""

    def __init__(self, model: nn.Module, spec: ModelSpec, reply: Callable[..., Message]) -> None:
        self.model, self.spec, self.reply = model, spec, reply
        self.outcomes: list[RoundOutcome] = []
        self.grid: ToyGrid

    def run(
        self,
        inner: flower.Strategy,
        sanitizer: Sanitizer,
        clients: list[Client],
        *,
        rounds: int = 3,
        **settings: Any,
    ) -> dict[str, Tensor]:
        self.outcomes.clear()
        self.grid = ToyGrid(clients, self.reply)
        settings.setdefault("broadcast", "repaired")
        settings.setdefault("verify", None)
        wrapped = SanitizingStrategy(
            inner, sanitizer, self.spec, device="cpu", observe=self.outcomes.append, **settings
        )
        result = wrapped.start(self.grid, ArrayRecord(self.model.state_dict()), num_rounds=rounds)
        return dict(result.arrays.to_torch_state_dict())

    @property
    def records(self) -> list[Any]:
        return [outcome.record for outcome in self.outcomes]


@pytest.fixture
def lab(tiny_model: nn.Module, tiny_spec: ModelSpec, reply: Callable[..., Message]) -> Lab:
    return Lab(tiny_model, tiny_spec, reply)


def inner_strategies() -> dict[str, flower.Strategy]:
    special = {"krum": Krum(num_malicious=1), "multikrum": MultiKrum(num_malicious=1),
               "bulyan": Bulyan(num_malicious=1)}  # fmt: skip
    built = {
        name: special.get(name, cls()).build(NUM_CLIENTS, NUM_CLIENTS)
        for name, cls in AGGREGATORS.items()
    }
    sampling = {"fraction_evaluate": 0.0, "min_available_nodes": NUM_CLIENTS}
    built["fedavgm with a small step"] = flower.FedAvgM(
        server_learning_rate=0.5, server_momentum=0.0, **sampling
    )
    built["fedadagrad"] = flower.FedAdagrad(**sampling)
    built["qfedavg"] = flower.QFedAvg(client_learning_rate=0.1, **sampling)
    built["a user's subclass"] = UsersStrategy(**sampling)
    return built


class UsersStrategy(flower.FedAvg):
    """What a user may write: sees its own replies, adds a metric."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = super().aggregate_train(server_round, replies)
        if metrics is not None:
            metrics["mine"] = 1.0
        return arrays, metrics


INNER = sorted(inner_strategies())


@pytest.mark.parametrize("name", INNER)
def test_repairs_do_not_come_undone_when_clients_stand_still(lab: Lab, name: str) -> None:
    """Each round halves the weights, whatever the inner strategy remembers of its own aggregate."""
    final = lab.run(inner_strategies()[name], Halve(), [stays] * NUM_CLIENTS, min_agreement=0)
    for key, parameter in lab.model.named_parameters():
        assert torch.allclose(final[key], parameter / 8, atol=1e-6), key


@pytest.mark.parametrize("name", INNER)
def test_batchnorm_models_survive(lab: Lab, name: str) -> None:
    """Dtypes stay, statistics stay near the clients', variances stay positive."""
    final = lab.run(
        inner_strategies()[name], NoDefense(), [drifts] * NUM_CLIENTS, rounds=4, min_agreement=0
    )
    for key, before in lab.model.state_dict().items():
        assert final[key].dtype == before.dtype, key
        assert torch.isfinite(final[key]).all(), key
        if key.endswith("running_var"):
            # Clients send 0.5 to 0.85 times the variance, four times.
            assert (final[key] >= 0.5**4 * before - 1e-6).all(), key
            assert (final[key] <= 0.85**4 * before + 1e-6).all(), key
        if key.endswith("num_batches_tracked"):
            assert final[key] == before + 20
    assert [record.num_replies for record in lab.records] == [0, 8, 8, 8, 8]


def test_without_a_defense_the_inner_strategy_is_unchanged_to_the_bit(
    lab: Lab, reply: Callable[..., Message]
) -> None:
    wrapped = lab.run(FedAvg().build(8, 8), NoDefense(), [drifts] * NUM_CLIENTS)
    alone = (
        FedAvg()
        .build(8, 8)
        .start(
            ToyGrid([drifts] * NUM_CLIENTS, reply),
            ArrayRecord(lab.model.state_dict()),
            num_rounds=3,
        )
    )
    for key, value in alone.arrays.to_torch_state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(wrapped[key], value.to(wrapped[key].dtype)), key


@pytest.mark.parametrize("name", ["fedavg", "fedadam", "krum"])
def test_arrays_in_half_precision_are_taken_and_sent_in_it(
    tiny_model: nn.Module, tiny_spec: ModelSpec, reply: Callable[..., Message], name: str
) -> None:
    lab = Lab(copy.deepcopy(tiny_model).half(), tiny_spec, reply)
    final = lab.run(inner_strategies()[name], Halve(), [stays] * NUM_CLIENTS, min_agreement=0)
    assert [each.num_replies for each in lab.records] == [0, 8, 8, 8]
    for key, parameter in lab.model.named_parameters():
        assert final[key].dtype == torch.float16
        assert torch.allclose(final[key], parameter / 8, atol=1e-3), key


def test_replies_in_another_precision_than_was_sent_are_told_the_cure(lab: Lab) -> None:
    def half(received: dict[str, Tensor], node: int) -> dict[str, Tensor]:
        return {k: v.half() if v.is_floating_point() else v for k, v in received.items()}

    lab.run(FedAvg().build(8, 8), NoDefense(), [half] * NUM_CLIENTS, rounds=1)
    (reason,) = {each.reason for each in lab.outcomes[1].rejections}
    assert reason.endswith("got float16[4, 1, 3, 3]; send weights in the dtype in which they came")


def test_a_counter_cannot_win_krums_selection(lab: Lab) -> None:
    """Two clients far off in the weights but central in the counter must not be chosen."""

    def honest(received: dict[str, Tensor], node: int) -> dict[str, Tensor]:
        return {k: v + 100 * node if k.endswith("tracked") else v for k, v in received.items()}

    def hostile(received: dict[str, Tensor], node: int) -> dict[str, Tensor]:
        return {k: v + 300 if k.endswith("tracked") else v + 0.05 for k, v in received.items()}

    clients: list[Client] = [honest] * 6 + [hostile] * 2
    final = lab.run(Krum(num_malicious=2).build(8, 8), NoDefense(), clients, rounds=1)
    for key, parameter in lab.model.named_parameters():
        assert torch.equal(final[key], parameter), key


def test_bad_replies_are_dropped_counted_and_change_nothing(lab: Lab) -> None:
    hostile: list[Client] = [stays] * 5 + [sends_nan, fails, sends_nan]
    final = lab.run(FedAvg().build(8, 8), NoDefense(), hostile, rounds=2)
    for key, value in lab.model.state_dict().items():
        assert torch.allclose(final[key].double(), value.double(), atol=1e-6), key
    record = lab.records[1]
    assert (record.num_replies, record.num_rejected, record.num_failures) == (5, 2, 1)
    assert [rejection.node for rejection in lab.outcomes[1].rejections] == [5, 7]


def test_a_client_that_never_answers_counts_as_failed(lab: Lab) -> None:
    class Deaf(ToyGrid):
        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
            return super().send_and_receive(messages)[:6]

    outcomes: list[RoundOutcome] = []
    wrapped = SanitizingStrategy(
        FedAvg().build(8, 8), NoDefense(), lab.spec, device="cpu", observe=outcomes.append
    )
    wrapped.start(Deaf([stays] * 8, lab.reply), ArrayRecord(lab.model.state_dict()), num_rounds=1)
    assert outcomes[1].record.num_failures == 2


def test_a_node_that_the_superlink_answers_for_is_counted_once_and_named(lab: Lab) -> None:
    """Flower reports a node that is gone with an error of the SuperLink, whose node id is 1."""

    class LosesNodeThree(ToyGrid):
        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
            messages = list(messages)
            for message in messages:
                message.metadata.__dict__["_message_id"] = f"to {message.metadata.dst_node_id}"
            replies = super().send_and_receive(messages)
            gone = self.reply(None, node=1)
            gone.metadata.__dict__["_reply_to_message_id"] = "to 3"
            return [gone if reply.metadata.src_node_id == 3 else reply for reply in replies]

    outcomes: list[RoundOutcome] = []
    wrapped = SanitizingStrategy(
        FedAvg().build(8, 8), NoDefense(), lab.spec, device="cpu", observe=outcomes.append
    )
    grid = LosesNodeThree([stays] * 8, lab.reply)
    wrapped.start(grid, ArrayRecord(lab.model.state_dict()), num_rounds=1)
    assert [(lost.node, lost.reason) for lost in outcomes[1].failures] == [(3, "client died")]
    assert outcomes[1].record.num_failures == 1


def test_a_round_without_any_reply_keeps_the_model_and_says_so(lab: Lab) -> None:
    lab.run(FedAvg().build(8, 8), Halve(), [fails] * NUM_CLIENTS, rounds=1)
    assert lab.records[1].num_failures == 8
    assert not lab.records[1].sanitized
    assert lab.outcomes[1].released is None


def test_the_gate_refuses_a_ruined_model(lab: Lab) -> None:
    final = lab.run(FedAvg().build(8, 8), Ruins(), [stays] * 8, rounds=1, min_agreement=0.9)
    record = lab.records[1]
    assert record.sanitized
    assert not record.accepted
    assert record.agreement is not None
    assert record.agreement < 0.9
    assert "agreement" in record.details["refused"]
    for key, parameter in lab.model.named_parameters():
        assert torch.allclose(final[key], parameter, atol=1e-6)


@pytest.mark.parametrize(("policy", "factor"), [("keep", 1.5), ("previous", 1.0)])
def test_what_is_handed_on_when_the_defense_fails(lab: Lab, policy: str, factor: float) -> None:
    def grows(received: dict[str, Tensor], node: int) -> dict[str, Tensor]:
        return {k: v * 1.5 if v.is_floating_point() else v for k, v in received.items()}

    final = lab.run(FedAvg().build(8, 8), Breaks(), [grows] * 8, rounds=1, on_failure=policy)
    for key, parameter in lab.model.named_parameters():
        assert torch.allclose(final[key], parameter * factor, atol=1e-5)
    assert lab.records[1].details["failure"] == "RuntimeError: out of luck"
    assert not lab.records[1].accepted


def test_after_a_failure_the_last_repaired_model_is_released(lab: Lab) -> None:
    """Clients go on from aggregates here: the one before was never repaired."""

    @dataclass(frozen=True)
    class HalvesOnce(Sanitizer):
        changes_models: ClassVar[bool] = True

        def sanitize(
            self, suspect: nn.Module, spec: ModelSpec, state: Any = None, reference: Any = None
        ) -> Sanitized:
            if state is not None:
                raise RuntimeError("out of luck")
            return Halve().sanitize(suspect, spec, state)

    final = lab.run(FedAvg().build(8, 8), HalvesOnce(), [stays] * 8, rounds=2, min_agreement=0,
                    on_failure="previous", broadcast="aggregate")  # fmt: skip
    assert "failure" in lab.records[2].details
    for key, parameter in lab.model.named_parameters():
        assert torch.allclose(final[key], parameter / 2, atol=1e-6)


def test_a_failing_inspection_repairs_to_be_safe(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot_be_cut(*_: Any) -> Any:
        raise ValueError("no cut")

    monkeypatch.setattr("fl_defense.rounds.suspicion.Monitor.look", cannot_be_cut)
    lab.run(FedAvg().build(8, 8), Halve(), [stays] * 8, rounds=2, min_agreement=0,
            schedule=Schedule(on_suspicion="history"))  # fmt: skip
    assert [record.sanitized for record in lab.records[1:]] == [True, True]
    assert lab.records[1].details["inspection_failure"] == "ValueError: no cut"


@dataclass(frozen=True)
class Refers(Sanitizer):
    """Keeps a weight of each reference that it is given."""

    seen: list[float] = field(default_factory=list)

    changes_models: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = True

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: Any = None, reference: Any = None
    ) -> Sanitized:
        weight = (
            float("nan")
            if reference is None
            else next(reference.parameters()).flatten()[0].detach()
        )
        self.seen.append(float(weight))
        return Sanitized(model=copy.deepcopy(suspect).eval())


@pytest.mark.parametrize(("age", "trained"), [(1, [1, 2, 3]), (2, [0, 1, 2]), (9, [0, 0, 0])])
def test_the_reference_is_a_model_that_was_sent_out(lab: Lab, age: int, trained: list[int]) -> None:
    """Each round adds 1 to the first weight: it tells how many rounds a reference had."""

    def adds(received: dict[str, Tensor], node: int) -> dict[str, Tensor]:
        name = next(name for name, _ in lab.model.named_parameters())
        return {**received, name: received[name] + 1}

    refers = Refers()
    lab.run(FedAvg().build(8, 8), refers, [adds] * 8, rounds=4, reference_age=age, verify=None)
    start = next(lab.model.parameters()).flatten()[0].item()
    assert math.isnan(refers.seen[0])  # none in the first round
    assert [round(weight - start) for weight in refers.seen[1:]] == trained


def test_a_reference_must_be_clean(lab: Lab) -> None:
    with pytest.raises(ValueError, match="reference_age: a reference must be clean"):
        SanitizingStrategy(FedAvg().build(8, 8), NoDefense(), lab.spec, reference_age=1)


def test_a_defense_is_whatever_has_sanitize(lab: Lab) -> None:
    """No base class, no facts, no reference: the least that a user may write."""

    class Mine:
        def sanitize(self, suspect: nn.Module, spec: ModelSpec, state: Any = None) -> Sanitized:
            return Halve().sanitize(suspect, spec, state)

    lab.run(FedAvg().build(8, 8), Mine(), [stays] * 8, rounds=1, min_agreement=0)  # type: ignore[arg-type]
    assert lab.records[1].accepted


def test_a_failing_defense_may_stop_the_run(lab: Lab) -> None:
    with pytest.raises(RuntimeError, match="out of luck"):
        lab.run(FedAvg().build(8, 8), Breaks(), [stays] * 8, on_failure="raise")


def test_schedule_and_warm_state(lab: Lab) -> None:
    lab.run(FedAvg().build(8, 8), Halve(), [stays] * 8, rounds=5, min_agreement=0,
            schedule=Schedule(first_round=2, every=2))  # fmt: skip
    assert [record.sanitized for record in lab.records] == [False, False, True, False, True, True]


@pytest.mark.parametrize(
    ("asked", "repaired"),
    [(1e-9, [False, True, True]), (1e9, [False, False, True]), ("history", [False, False, True])],
)
def test_repair_on_suspicion(lab: Lab, asked: Any, repaired: list[bool]) -> None:
    lab.run(FedAvg().build(8, 8), Halve(), [stays] * 8, min_agreement=0,
            schedule=Schedule(first_round=2, on_suspicion=asked), inspection=SEARCH)  # fmt: skip
    _, *rounds = lab.records
    assert [record.sanitized for record in rounds] == repaired
    # Not before the first round; then every round is inspected, whatever comes of it.
    assert ["anomaly" in record.details for record in rounds] == [False, True, True]
    assert [record.details.get("alarm") for record in rounds[1:]] == [asked == 1e-9] * 2
    looked = SEARCH.inspect(lab.outcomes[2].aggregate.model, lab.spec)
    assert rounds[1].details["suspected_class"] == looked.suspected_class


@pytest.mark.parametrize(("bar", "repaired"), [(1e-9, [False, True]), (1e9, [False, False])])
def test_with_screens_the_aggregate_is_checked_by_the_inspections_own_bar(
    lab: Lab, bar: float, repaired: list[bool]
) -> None:
    search = replace(SEARCH, patch_bar=bar, bar_of_small_images=bar, clear_bar=bar)
    lab.run(FedAvg().build(8, 8), Halve(), [stays] * 8, rounds=2, min_agreement=0,
            schedule=Schedule(on_suspicion="screens", check_every=2, last=False),
            inspection=search)  # fmt: skip
    _, *rounds = lab.records
    assert [record.sanitized for record in rounds] == repaired
    assert ["anomaly" in record.details for record in rounds] == [False, True]


def test_where_a_screen_asks_for_repairs_no_other_round_is_repaired(lab: Lab) -> None:
    @dataclass(frozen=True, kw_only=True)
    class InRound(Screen):
        number: int
        asks_for_repair: ClassVar[bool] = True

        def screen(self, shown: Any, spec: Any, *, device: Any, state: Any = None) -> Screening:
            verdicts = tuple(Verdict() for _ in shown.replies)
            return Screening(verdicts=verdicts, is_suspicious=shown.number == self.number)

    for number, repaired in ((1, [False, False, True]), (2, [False, True, True])):
        lab.outcomes.clear()
        lab.run(FedAvg().build(8, 8), Halve(), [stays] * 8, rounds=3, min_agreement=0,
                screens=[InRound(number=number)])  # fmt: skip
        assert [record.sanitized for record in lab.records[1:]] == repaired


@pytest.mark.parametrize("initial", [True, False])
def test_screens_are_told_of_a_run_that_begins_with_a_trained_model(
    lab: Lab, initial: bool
) -> None:
    told: list[bool] = []

    class Told(Screen):
        def screen(self, shown: Any, spec: Any, *, device: Any, state: Any = None) -> Screening:
            told.append(shown.began_trained)
            return Screening(verdicts=tuple(Verdict() for _ in shown.replies))

    lab.run(FedAvg().build(8, 8), Halve(), [stays] * 8, rounds=2, min_agreement=0,
            screens=[Told()], schedule=Schedule(initial=initial))  # fmt: skip
    assert told == [initial, initial]


def test_clients_train_on_the_aggregate_and_the_repaired_model_is_released(lab: Lab) -> None:
    final = lab.run(FedAvg().build(8, 8), Halve(), [stays] * 8, rounds=3, min_agreement=0,
                    broadcast="aggregate")  # fmt: skip
    key, parameter = next(iter(lab.model.named_parameters()))
    assert torch.allclose(final[key], parameter / 2, atol=1e-6)
    assert torch.allclose(lab.grid.sent[-1].to_torch_state_dict()[key], parameter, atol=1e-6)


def test_the_model_that_a_run_begins_with_can_be_repaired_before_it_is_sent(lab: Lab) -> None:
    lab.run(FedAvg().build(8, 8), Halve(), [stays] * 8, rounds=1, min_agreement=0,
            schedule=Schedule(initial=True, every=None), broadcast="aggregate")  # fmt: skip
    weight = next(name for name, _ in lab.model.named_parameters())
    sent = lab.grid.sent[0].to_torch_state_dict()[weight]
    assert torch.equal(sent, lab.model.state_dict()[weight] / 2)
    assert lab.records[0].accepted
    assert lab.outcomes[0].aggregate is not lab.outcomes[0].released


def test_a_defense_that_did_nothing_is_recorded(lab: Lab) -> None:
    @dataclass(frozen=True)
    class Idle(Sanitizer):
        changes_models: ClassVar[bool] = True

        def sanitize(
            self, suspect: nn.Module, spec: ModelSpec, state: Any = None, reference: Any = None
        ) -> Sanitized:
            warnings.warn("something else", UserWarning, stacklevel=1)
            return Sanitized(model=copy.deepcopy(suspect))

    with pytest.warns(UserWarning, match="something else"):
        lab.run(FedAvg().build(8, 8), Idle(), [stays] * 8, rounds=1)
    assert lab.records[1].details["no_effect"] == "Idle left the model unchanged"


def test_observer_sees_both_models_and_round_zero(lab: Lab) -> None:
    lab.run(FedAvg().build(8, 8), Halve(), [stays] * 8, rounds=1, min_agreement=0)
    initial, first = lab.outcomes
    assert initial.record.round == 0
    assert initial.aggregate is not None
    assert first.aggregate is not None
    assert first.released is not None
    before = next(first.aggregate.model.parameters())
    assert torch.allclose(next(first.released.model.parameters()), before / 2)


def test_flower_shows_the_defenses_figures_every_round(lab: Lab) -> None:
    grid = ToyGrid([stays] * 8, lab.reply)
    wrapped = SanitizingStrategy(
        FedAvg().build(8, 8), Halve(), lab.spec, device="cpu", min_agreement=0, verify=SEARCH
    )
    result = wrapped.start(grid, ArrayRecord(lab.model.state_dict()), num_rounds=2)
    assert result.train_metrics_clientapp[2]["defense-accepted"] == 1


def test_arguments_of_start_that_are_not_known_here_are_passed_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def start(self: Any, *args: Any, **kwargs: Any) -> flower.Result:
        seen.update(kwargs)
        return flower.Result()

    monkeypatch.setattr(flower.Strategy, "start", start)
    wrapped = SanitizingStrategy(FedAvg().build(8, 8), NoDefense(), lab.spec, device="cpu")
    wrapped.start(
        ToyGrid([stays], lab.reply), ArrayRecord(lab.model.state_dict()), num_rounds=1,
        should_stop=print,
    )  # fmt: skip
    assert seen == {"should_stop": print}


def resumable(lab: Lab, tmp_path: Path, clients: list[Client]) -> tuple[Any, CheckpointFile]:
    file = CheckpointFile(path=tmp_path / "checkpoint")
    wrapped = SanitizingStrategy(
        flower.FedAvgM(server_momentum=0.9, fraction_evaluate=0.0), Halve(), lab.spec,
        device="cpu", min_agreement=0, observe=lab.outcomes.append, checkpoint_file=file,
        schedule=Schedule(on_suspicion=1e-9), inspection=SEARCH, verify=SEARCH,
    )  # fmt: skip
    lab.grid = ToyGrid(clients, lab.reply)
    return wrapped, file


def test_a_resumed_federation_ends_like_an_uninterrupted_one(lab: Lab, tmp_path: Path) -> None:
    clients: list[Client] = [drifts] * 3
    initial = ArrayRecord(lab.model.state_dict())
    evaluated: list[int] = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        evaluated.append(server_round)
        return MetricRecord({"round": server_round})

    whole, _ = resumable(lab, tmp_path, clients)
    expected = whole.start(lab.grid, initial, num_rounds=4)
    anomalies = [record.details.get("anomaly") for record in lab.records]
    first, file = resumable(lab, tmp_path, clients)
    first.start(lab.grid, initial, num_rounds=2)
    lab.outcomes.clear()
    second, _ = resumable(lab, tmp_path, clients)
    second.resume(file.read())
    found = second.start(lab.grid, initial, num_rounds=4, evaluate_fn=evaluate)
    assert found.arrays == expected.arrays
    assert [record.round for record in lab.records] == [3, 4]
    assert [record.details["anomaly"] for record in lab.records] == anomalies[3:]
    assert len(lab.grid.sent) == 2 * len(clients)
    assert evaluated == [3, 4]
    assert sorted(found.train_metrics_clientapp) == [3, 4]
    assert file.read().carried.repair.defense == {"calls": 4}


def test_a_federation_that_had_finished_is_resumed_to_its_result(lab: Lab, tmp_path: Path) -> None:
    initial = ArrayRecord(lab.model.state_dict())
    first, file = resumable(lab, tmp_path, [drifts] * 3)
    expected = first.start(lab.grid, initial, num_rounds=2)
    again, _ = resumable(lab, tmp_path, [drifts] * 3)
    again.resume(file.read())
    assert again.start(lab.grid, initial, num_rounds=2).arrays == expected.arrays
    assert lab.grid.sent == []


def test_the_checkpoint_of_another_model_is_refused(lab: Lab, tmp_path: Path) -> None:
    wrapped, _ = resumable(lab, tmp_path, [])
    other = Carried(round=1, arrays=ArrayRecord({"w": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"checkpoint: .* must be"):
        wrapped.resume(Checkpoint.take(other, [wrapped.strategy]))


def test_initial_arrays_of_another_model_are_refused(lab: Lab) -> None:
    wrapped = SanitizingStrategy(FedAvg().build(8, 8), NoDefense(), lab.spec, device="cpu")
    arrays = dict(lab.model.state_dict())
    arrays["0.weight"] = torch.zeros(9, 9)
    with pytest.raises(ValueError, match=r"initial_arrays: '0.weight' must be .* got \(9, 9\)"):
        wrapped.start(ToyGrid([stays], lab.reply), ArrayRecord(arrays))


def test_aggregating_before_configuring_is_refused(lab: Lab) -> None:
    wrapped = SanitizingStrategy(FedAvg().build(8, 8), NoDefense(), lab.spec, device="cpu")
    with pytest.raises(RuntimeError, match="before configure_train"):
        wrapped.aggregate_train(1, [])


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_min_agreement_out_of_range_is_refused(lab: Lab, value: float) -> None:
    with pytest.raises(ValueError, match="min_agreement must be in"):
        SanitizingStrategy(FedAvg().build(8, 8), NoDefense(), lab.spec, min_agreement=value)


def test_nothing_of_the_defense_reaches_the_clients(lab: Lab) -> None:
    wrapped = SanitizingStrategy(FedAvg().build(8, 8), Halve(), lab.spec, device="cpu",
                                 min_agreement=0, verify=SEARCH)  # fmt: skip
    arrays = ArrayRecord(lab.model.state_dict())
    for server_round in (1, 2, 3):
        grid = ToyGrid([stays] * 8, lab.reply)
        messages = list(wrapped.configure_train(server_round, arrays, ConfigRecord(), grid))
        for message in messages:
            assert isinstance(message.content, RecordDict)
            assert message.content.keys() == {"arrays", "config"}
            assert dict(message.content["config"]) == {"server-round": server_round}
        sent, _ = wrapped.aggregate_train(server_round, grid.send_and_receive(messages))
        assert sent is not None
        assert sent.keys() == arrays.keys()
        arrays = sent


@pytest.mark.parametrize("name", ["on_failure", "broadcast", "buffers"])
def test_a_word_that_no_option_knows_is_refused(lab: Lab, name: str) -> None:
    options: dict[str, Any] = {name: "agregate"}
    with pytest.raises(ValueError, match=f"^{name} must be one of .*, got agregate$"):
        SanitizingStrategy(FedAvg().build(8, 8), NoDefense(), lab.spec, **options)


@pytest.mark.parametrize(
    ("sanitizer", "message"),
    [
        (Halve, r"sanitizer must be a defense .*, got <class .*; put several into Pipeline"),
        ([Halve(), Halve()], r"sanitizer must be a defense .* put several into Pipeline"),
        (None, "sanitizer must be a defense"),
        (DHBE(patch_size=30), "patch_size must be at most the image's 8, got 30"),
    ],
)
def test_a_defense_that_cannot_repair_is_refused_at_once(
    lab: Lab, sanitizer: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SanitizingStrategy(FedAvg().build(8, 8), sanitizer, lab.spec)


def test_a_strategy_of_the_older_api_is_refused(lab: Lab) -> None:
    with pytest.raises(ValueError, match=r"strategy must be one of flwr\.serverapp\.strategy, got"):
        SanitizingStrategy(OlderFedAvg(), NoDefense(), lab.spec)  # type: ignore[arg-type]


def test_a_model_that_does_not_fit_its_spec_is_refused_at_once(lab: Lab) -> None:
    for spec, message in (
        (
            replace(lab.spec, num_classes=7),
            r"^spec: the model must answer .* \(1, 7\), got \(1, 3\)",
        ),
        (replace(lab.spec, input_shape=(2, 8, 8)), "^spec: the model takes no images of 2x8x8"),
    ):
        with pytest.raises(ValueError, match=message):
            SanitizingStrategy(FedAvg().build(8, 8), Halve(), spec)


def test_an_inspection_that_does_not_fit_is_refused_where_it_is_asked(lab: Lab) -> None:
    asked = {"inspection": TriggerSearch(patch_size=9), "schedule": Schedule(on_suspicion=3.0)}
    with pytest.raises(ValueError, match="patch_size must be at most the image's 8, got 9"):
        SanitizingStrategy(FedAvg().build(8, 8), Halve(), lab.spec, **asked)
    del asked["schedule"]
    SanitizingStrategy(FedAvg().build(8, 8), Halve(), lab.spec, **asked)


def test_the_weight_is_the_wrapped_strategys(lab: Lab) -> None:
    inner = flower.FedAvg(weighted_by_key="images", min_train_nodes=8, min_available_nodes=8)
    private = flower.DifferentialPrivacyServerSideFixedClipping(inner, 0.0, 1.0, 8)
    wrapped = SanitizingStrategy(private, NoDefense(), lab.spec, device="cpu")
    assert wrapped.weighted_by_key == "images"
    of_users = SanitizingStrategy(UsersStrategy(), NoDefense(), lab.spec)
    assert of_users.weighted_by_key == "num-examples"


@pytest.mark.parametrize("argument", ["schedule", "reply_check", "checkpoint_file"])
def test_an_argument_of_another_kind_is_refused(argument: str) -> None:
    wrong: Any = {argument: 3}
    with pytest.raises(ValueError, match=f"{argument} must be a .* or None, got 3"):
        SanitizingStrategy(FedProx(), NoDefense(), small_spec(), device="cpu", **wrong)
