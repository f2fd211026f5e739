from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.gate import DoNoHarmGate

CPU = torch.device("cpu")


def test_a_model_agrees_with_itself_and_passes(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    gate = DoNoHarmGate(tiny_spec, tiny_model, 1.0, seed=0, device=CPU)
    deployed = DeployedModel(tiny_model, tiny_spec.pixels)
    assert gate.agreement(deployed, deployed) == 1
    assert gate.refusal(1.0) is None


def test_a_model_of_one_class_agrees_on_that_class_alone(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    collapsed = copy.deepcopy(tiny_model)
    with torch.no_grad():
        collapsed[-1].bias.copy_(torch.tensor([100.0, 0.0, 0.0]))
        tiny_model[-1].weight.mul_(100)  # so that it sees every class
    before = DeployedModel(tiny_model, tiny_spec.pixels)
    gate = DoNoHarmGate(tiny_spec, tiny_model, 0.6, seed=0, device=CPU)
    agreement = gate.agreement(before, DeployedModel(collapsed, tiny_spec.pixels))
    assert agreement <= 0.5
    assert gate.refusal(agreement) == f"agreement {agreement:.3f} is below 0.6"


def test_without_statistics_a_repair_must_agree_on_more(tiny_spec: ModelSpec) -> None:
    def least(norm: nn.Module, given: float | None = None) -> float:
        model = nn.Sequential(nn.Conv2d(1, 1, 3), norm)
        return DoNoHarmGate(tiny_spec, model, given, seed=0, device=CPU).min_agreement

    assert least(nn.BatchNorm2d(1)) == 0.5
    assert least(nn.GroupNorm(1, 1)) == 0.8
    assert least(nn.BatchNorm2d(1, track_running_stats=False)) == 0.8
    assert least(nn.GroupNorm(1, 1), 0.0) == 0.0


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_threshold_out_of_range_is_refused(
    tiny_model: nn.Module, tiny_spec: ModelSpec, value: float
) -> None:
    with pytest.raises(ValueError, match="min_agreement must be in"):
        DoNoHarmGate(tiny_spec, tiny_model, value, seed=0, device=CPU)
