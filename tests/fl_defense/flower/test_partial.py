"""Federations that send a part of the network; the server's own copy is what is around it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from torch import Tensor, nn

from fl_defense.flower.checkpoint import CheckpointFile
from fl_defense.flower.packing import CheckpointError
from fl_defense.flower.strategy import SanitizingStrategy
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.records import RoundOutcome
from fl_defense.sanitizers import BCU, CLP, DHBE, DeepSanitizer, NoDefense, Pipeline, Sanitizer
from fl_defense.screens import SCREENS, DeepSight
from simulations.aggregators import FedAvg
from tests.fl_defense.flower.test_strategy import (
    INNER,
    NUM_CLIENTS,
    Halve,
    Lab,
    ToyGrid,
    drifts,
    inner_strategies,
    stays,
)
from tests.quick import SEARCH

HEAD = ("13.weight", "13.bias")
PARTS = {
    "head": HEAD,
    "a layer in the middle, with its BatchNorm": tuple(
        f"{name}" for name in ("4.weight", "5.weight", "5.bias", "5.running_mean", "5.running_var")
    ),
    "weights without buffers": None,
}
SMALL_DHBE = DHBE(iterations=2, num_scenes=32, patch_size=3, distorted_share=0.0)


def trains(received: dict[str, Tensor], node: int) -> dict[str, Tensor]:
    """Like `drifts`, with no two pairs of clients equally far apart: distances have no ties."""
    moved = {}
    for name, value in received.items():
        scale = 1 + value.abs() if value.is_floating_point() else 0 * value
        moved[name] = value + 0.01 * (node + 1) ** 1.5 * scale
        if not value.is_floating_point():
            moved[name] = value + 5
    return moved


def names_of(part: str, model: nn.Module) -> list[str]:
    names = PARTS[part]
    return [name for name, _ in model.named_parameters()] if names is None else list(names)


class PartLab:
    """Runs a wrapped strategy that is given a part of a model."""

    def __init__(self, model: nn.Module, spec: ModelSpec, reply: Callable[..., Message]) -> None:
        self.model, self.spec, self.reply = model, spec, reply
        self.base: Mapping[str, Tensor] | None = copy.deepcopy(model.state_dict())
        self.outcomes: list[RoundOutcome] = []

    def part(self, names: list[str] | tuple[str, ...]) -> ArrayRecord:
        state = self.model.state_dict()
        return ArrayRecord({name: state[name] for name in names})

    def strategy(self, sanitizer: Sanitizer, **settings: Any) -> SanitizingStrategy:
        self.outcomes.clear()
        fixed = {"inner": FedAvg().build(8, 8), "spec": self.spec, "base": self.base}
        fixed |= {"broadcast": "repaired", "verify": None, "observe": self.outcomes.append}
        given = fixed | settings
        inner, spec = given.pop("inner"), given.pop("spec")
        return SanitizingStrategy(inner, sanitizer, spec, device="cpu", **given)

    def run(
        self,
        sanitizer: Sanitizer,
        names: list[str] | tuple[str, ...],
        *,
        rounds: int = 3,
        client: Callable[..., Any] = drifts,
        **settings: Any,
    ) -> dict[str, Tensor]:
        grid = ToyGrid([client] * NUM_CLIENTS, self.reply)
        strategy = self.strategy(sanitizer, **settings)
        result = strategy.start(grid, self.part(names), num_rounds=rounds)
        assert all(list(sent) == list(names) for sent in grid.sent)
        return dict(result.arrays.to_torch_state_dict())


@pytest.fixture
def lab(tiny_model: nn.Module, tiny_spec: ModelSpec, reply: Callable[..., Message]) -> PartLab:
    return PartLab(tiny_model, tiny_spec, reply)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", INNER)
def test_a_part_is_aggregated_as_where_the_rest_is_sent_and_stays(
    lab: PartLab, name: str, part: str
) -> None:
    """To the bit, whatever the inner strategy measures or remembers."""
    names = names_of(part, lab.model)

    def part_alone(received: dict[str, Tensor], node: int) -> dict[str, Tensor]:
        moved = trains(received, node)
        return {name: moved[name] if name in names else received[name] for name in received}

    whole = Lab(lab.model, lab.spec, lab.reply)
    clients: list[Any] = [part_alone] * NUM_CLIENTS
    wanted = whole.run(inner_strategies()[name], NoDefense(), clients, rounds=2)
    got = lab.run(NoDefense(), names, rounds=2, client=trains, inner=inner_strategies()[name])
    assert list(got) == names
    assert all(torch.equal(got[key], wanted[key]) for key in names)


def test_fedavg_makes_the_same_of_a_part_without_the_wrapper(lab: PartLab) -> None:
    got = lab.run(NoDefense(), HEAD)
    grid = ToyGrid([drifts] * NUM_CLIENTS, lab.reply)
    alone = FedAvg().build(8, 8).start(grid, lab.part(HEAD), num_rounds=3)
    assert list(got) == list(alone.arrays)
    for key, value in alone.arrays.to_torch_state_dict().items():
        assert torch.equal(got[key], value), key


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", INNER)
def test_repairs_of_the_part_last_and_nothing_else_changes(
    lab: PartLab, name: str, part: str
) -> None:
    """Halving reaches every parameter; only what is sent is halved, round after round."""
    names = names_of(part, lab.model)
    inner = inner_strategies()[name]
    final = lab.run(Halve(), names, rounds=2, client=stays, inner=inner, min_agreement=0)
    assert list(final) == names
    parameters = dict(lab.model.named_parameters())
    for key in names:
        factor = 1 / 4 if key in parameters else 1
        assert torch.allclose(final[key], lab.model.state_dict()[key] * factor, atol=1e-6), key
    released = lab.outcomes[-1].released
    assert released is not None
    for key, value in released.model.state_dict().items():
        wanted = final[key] if key in final else lab.model.state_dict()[key]
        assert torch.equal(value, wanted), key


def test_a_part_is_repaired_as_in_a_federation_of_the_whole_with_the_rest_frozen(
    lab: PartLab, reply: Callable[..., Message]
) -> None:
    """The head of both is the same in every bit, so nothing depends on how the rest got there."""

    def head_alone(received: dict[str, Tensor], node: int) -> dict[str, Tensor]:
        moved = drifts(received, node)
        return {name: moved[name] if name in HEAD else received[name] for name in received}

    def frozen() -> nn.Module:
        model = copy.deepcopy(lab.model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in HEAD)
        return model

    whole = Lab(lab.model, replace(lab.spec, build=frozen), reply)
    settings: dict[str, Any] = {"min_agreement": 0, "verify": SEARCH, "rounds": 2}
    wanted = whole.run(FedAvg().build(8, 8), SMALL_DHBE, [head_alone] * NUM_CLIENTS, **settings)
    got = lab.run(SMALL_DHBE, HEAD, **settings)
    assert all(torch.equal(got[name], wanted[name]) for name in HEAD)
    assert not torch.equal(got["13.weight"], lab.model.state_dict()["13.weight"])
    verdicts = [outcome.record.verdict for outcome in lab.outcomes]
    assert verdicts == [outcome.record.verdict for outcome in whole.outcomes]
    assert lab.outcomes[1].record.agreement == whole.outcomes[1].record.agreement


@dataclass(frozen=True)
class BreaksWhatIsKept(Sanitizer):
    """A defense that would pass no gate, by what it does outside of the head."""

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: Any = None, reference: Any = None
    ) -> Any:
        done = Halve().sanitize(suspect, spec, state, reference)
        head = suspect.state_dict()
        done.model.load_state_dict({name: head[name] for name in HEAD}, strict=False)
        return done


def test_what_a_defense_does_elsewhere_is_undone_and_told(lab: PartLab) -> None:
    final = lab.run(BreaksWhatIsKept(), HEAD, client=stays, rounds=1, min_agreement=1.0)
    assert all(torch.allclose(final[name], lab.model.state_dict()[name]) for name in HEAD)
    record = lab.outcomes[1].record
    assert record.agreement == 1.0
    assert record.details["no_effect"] == "BreaksWhatIsKept left the model unchanged"


@pytest.mark.parametrize(
    "sanitizer",
    [
        DeepSanitizer(steps=2, num_dummies=32, patch_size=3, distorted_share=0.0),
        BCU(num_images=16, epochs=1, batch_size=16, num_statistics_images=16),
        Pipeline(steps=(SMALL_DHBE, NoDefense())),
    ],
    ids=lambda sanitizer: type(sanitizer).__name__,
)
def test_defenses_repair_a_head(lab: PartLab, sanitizer: Sanitizer) -> None:
    final = lab.run(sanitizer, HEAD, rounds=1, min_agreement=0)
    record = lab.outcomes[1].record
    assert "failure" not in record.details
    assert record.sanitized
    assert record.accepted
    assert list(final) == list(HEAD)


def test_a_defense_that_has_nothing_to_change_in_the_part_is_refused_at_the_start(
    lab: PartLab,
) -> None:
    with pytest.raises(ValueError, match=r"CLP cannot repair .* 2 arrays are federated, '13.weig"):
        lab.run(CLP(), HEAD)
    with pytest.raises(ValueError, match=r"DeepSanitizer cannot repair .* no parameter"):
        lab.run(DeepSanitizer(patch_size=3), ["0.weight"])
    assert lab.outcomes == []


@pytest.mark.parametrize("name", SCREENS)
def test_screens_see_whole_networks_and_edit_the_part(lab: PartLab, name: str) -> None:
    screen = DeepSight(num_samples=200) if name == "deepsight" else SCREENS[name]()
    final = lab.run(NoDefense(), HEAD, client=trains, screens=[screen], rounds=2)
    assert list(final) == list(HEAD)
    (report,) = lab.outcomes[2].record.details["screens"]
    assert "kept_sent" not in lab.outcomes[2].record.details
    assert len(report["verdicts"]) == NUM_CLIENTS


def test_a_run_resumes_with_the_part_and_the_same_base_alone(lab: PartLab, tmp_path: Path) -> None:
    file = CheckpointFile(path=tmp_path / "checkpoint")
    wanted = lab.run(Halve(), HEAD, rounds=3, min_agreement=0)
    lab.run(Halve(), HEAD, rounds=2, min_agreement=0, checkpoint_file=file)

    def resumed(**settings: Any) -> SanitizingStrategy:
        strategy = lab.strategy(Halve(), min_agreement=0, **settings)
        strategy.resume(file.read())
        return strategy

    grid = ToyGrid([drifts] * NUM_CLIENTS, lab.reply)
    result = resumed().start(grid, lab.part(HEAD), num_rounds=3)
    got = result.arrays.to_torch_state_dict()
    assert all(torch.equal(got[name], wanted[name]) for name in HEAD)
    assert lab.base is not None
    other = {name: value + 1 for name, value in lab.base.items()}
    with pytest.raises(CheckpointError, match="give the `base` that it was written with"):
        resumed(base=other).start(grid, lab.part(HEAD), num_rounds=3)
    with pytest.raises(CheckpointError, match="federated 2 arrays, got other initial_arrays"):
        resumed().start(grid, lab.part([*lab.base]), num_rounds=3)


def test_the_rest_is_what_build_makes_where_that_is_always_the_same(lab: PartLab) -> None:
    pretrained = replace(lab.spec, build=lambda: copy.deepcopy(lab.model))
    wanted = lab.run(SMALL_DHBE, HEAD, rounds=1, min_agreement=0)
    got = lab.run(SMALL_DHBE, HEAD, rounds=1, min_agreement=0, spec=pretrained, base=None)
    assert all(torch.equal(got[name], wanted[name]) for name in HEAD)


def test_a_rest_that_nobody_knows_is_refused_before_the_first_round(lab: PartLab) -> None:
    lab.base = None
    with pytest.raises(ValueError, match=r"leave out 18 of 20 arrays.*anew at each call.*base="):
        lab.run(Halve(), HEAD)
    personal = [name for name in lab.model.state_dict() if int(name.split(".")[0]) not in (1, 5, 9)]
    with pytest.raises(ValueError, match=r"'1.weight', which are constants .* give the server's"):
        lab.run(Halve(), personal)
    assert lab.outcomes == []


def test_a_loop_of_ones_own_may_federate_a_part(lab: PartLab) -> None:
    wanted = lab.run(Halve(), HEAD, rounds=1, min_agreement=0)
    grid = ToyGrid([drifts] * NUM_CLIENTS, lab.reply)
    strategy = lab.strategy(Halve(), min_agreement=0)
    messages = strategy.configure_train(1, lab.part(HEAD), ConfigRecord(), grid)
    strategy.aggregate_train(1, grid.send_and_receive(messages))
    assert strategy.released is not None
    assert list(strategy.released) == list(HEAD)
    assert wanted.keys() == strategy.released.keys()
    unknown = lab.strategy(Halve(), base=None)
    with pytest.raises(ValueError, match=r"makes '0\.weight' anew at each call"):
        unknown.configure_train(1, lab.part(HEAD), ConfigRecord(), grid)


def test_counters_alone_may_be_left_out(lab: PartLab) -> None:
    lab.base = None
    names = [name for name in lab.model.state_dict() if not name.endswith("tracked")]
    final = lab.run(Halve(), names, client=stays, rounds=1, min_agreement=0)
    assert torch.allclose(final["13.weight"], lab.model.state_dict()["13.weight"] / 2)


def broken_bases() -> dict[str, tuple[Any, str]]:
    return {
        "a network": (nn.Linear(2, 2), "must be a state dict, got Linear; give model.state_dict()"),
        "a name": ({"99.weight": torch.zeros(1)}, "'99.weight' must be absent .* got "),
        "a shape": ({"13.bias": torch.zeros(9)}, r"'13.bias' must be \(3,\) .* got \(9,\)"),
        "a wrapper": ({"module.13.bias": torch.zeros(3)}, "DistributedDataParallel's prefix"),
        "NaN": ({"13.bias": torch.full((3,), torch.nan)}, "'13.bias' must be finite, got NaN"),
    }


@pytest.mark.parametrize("case", broken_bases())
def test_a_base_that_does_not_fit_is_refused_in_one_line(lab: PartLab, case: str) -> None:
    base, message = broken_bases()[case]
    with pytest.raises(ValueError, match=f"^base: .*{message}") as caught:
        lab.strategy(NoDefense(), base=base)
    assert "\n" not in str(caught.value)


def test_a_base_without_what_is_left_out_is_refused(lab: PartLab) -> None:
    lab.base = {"0.weight": lab.model.state_dict()["0.weight"]}
    with pytest.raises(
        ValueError, match="base: must hold what initial_arrays leave out, got no '1"
    ):
        lab.run(NoDefense(), HEAD)


def test_weights_that_are_one_must_be_sent_together(lab: PartLab) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
            self.last.weight = self.first.weight

        def forward(self, images: Tensor) -> Tensor:
            answer: Tensor = self.last(self.first(images.flatten(1)))
            return answer

    lab.model, lab.base = Tied(), None
    spec = ModelSpec(build=Tied, input_shape=(1, 8, 8), num_classes=64)
    with pytest.raises(ValueError, match=r"'last.weight' must be sent, too: .* 'first.weight'"):
        lab.run(NoDefense(), ["first.weight"], spec=spec)


def test_a_client_that_sends_a_part_of_what_it_was_sent_is_told_the_cure(lab: PartLab) -> None:
    def head_alone(received: dict[str, Tensor], node: int) -> dict[str, Tensor]:
        return {name: received[name] for name in HEAD}

    final = lab.run(NoDefense(), [*lab.model.state_dict()], client=head_alone, rounds=1)
    reasons = {each.reason for each in lab.outcomes[1].rejections}
    (reason,) = reasons
    assert reason.endswith(
        "to federate a part of the model, let initial_arrays hold that part alone"
    )
    assert list(final) == list(lab.model.state_dict())
