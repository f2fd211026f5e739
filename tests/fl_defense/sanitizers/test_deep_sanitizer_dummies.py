import copy
from dataclasses import replace

import torch
from torch import nn

from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers.deep_sanitizer.dummies import Balancing, deal_out

BALANCING = Balancing(steps=2, lr=0.03, anchor_weight=0.02, channel_dropout=0.2)


def test_features_are_dealt_out_evenly_and_the_surest_stay() -> None:
    posteriors = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    assert deal_out(posteriors.log()).tolist() == [0, 0, 1, 1]
    many = torch.rand(100, 7, generator=torch.Generator().manual_seed(0))
    counts = deal_out(many.log()).bincount(minlength=7)
    assert counts.max() <= -(-100 // 7)


def test_without_steps_dummies_are_the_scenes_features(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    features, teacher = tiny_spec.split(copy.deepcopy(tiny_model).requires_grad_(False))
    found = features(torch.randn(20, 1, 8, 8))
    made = replace(BALANCING, steps=0).dummies(teacher, found, teacher(found))
    assert torch.equal(made.features, found)
    assert made.classes.bincount(minlength=3).max() == 7


def test_sure_dummies_stay_where_they_are(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    features, teacher = tiny_spec.split(copy.deepcopy(tiny_model).requires_grad_(False))
    found = features(torch.randn(9, 1, 8, 8))
    answers = 9.0 * torch.eye(3).repeat(3, 1)
    made = BALANCING.dummies(teacher, found, answers)
    assert torch.equal(made.features, found)
    assert torch.equal(made.classes, answers.argmax(1))
    answers[4] = 0.0
    made = BALANCING.dummies(teacher, found, answers)
    moved = (made.features != found).flatten(1).any(1)
    assert moved.nonzero()[:, 0].tolist() == [4]


def test_a_heavy_anchor_holds_dummies_back(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    features, teacher = tiny_spec.split(copy.deepcopy(tiny_model).requires_grad_(False))
    found = features(torch.randn(9, 1, 8, 8))

    def distance(anchor_weight: float) -> float:
        torch.manual_seed(0)
        settings = replace(BALANCING, steps=20, anchor_weight=anchor_weight)
        moved = settings.dummies(teacher, found, torch.zeros(9, 3)).features
        return float((moved - found).norm())

    assert 0 < distance(10.0) < 0.5 * distance(0.0)
