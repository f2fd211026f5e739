import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.inspections.freeeagle import (
    FreeEagle,
    judge,
)
from fl_defense.model.spec import ModelSpec, Pixels

QUICK = FreeEagle(steps=300, warm_steps=30)


class Pixels16(nn.Module):
    """The image's 16 pixels, made non-negative, and a linear classifier of them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.ReLU())
        self.classifier = nn.Linear(16, 8, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(inputs))
        return logits


def toy(shortcut: int | None) -> tuple[nn.Module, ModelSpec]:
    """8 classes, each with 1 own feature; a shortcut's feature helps all, that class most."""
    model = Pixels16()
    weight = torch.zeros(8, 16)
    weight[:, :8] = 2 * torch.eye(8)
    weight[:, 8:12] = 0.3 * torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    if shortcut is not None:
        weight[:, 12] = 1.0
        weight[shortcut, 12] = 1.8
        weight[:, :8] += 0.8 * (1 - torch.eye(8)) * (torch.arange(8) == shortcut)[:, None]
    model.classifier.weight.data = weight
    spec = ModelSpec(build=Pixels16, input_shape=(1, 4, 4), num_classes=8, inspect_at="features")
    return model.eval(), spec


def test_the_measure_of_a_matrix_made_by_hand() -> None:
    columns = torch.tensor([0.0, 0.001, 0.002, 0.003, 0.2, 0.004, 0.005, 0.006]) + 0.01
    found = judge(columns.repeat(8, 1))
    assert found.posteriors.diagonal().eq(0).all()
    # The mean of seven cells of each column; of the eight means those at positions 2 and 6.
    assert torch.allclose(found.tendencies, columns)
    assert found.anomaly == pytest.approx((0.21 - 0.016) / (0.016 - 0.012), rel=1e-4)
    assert found.suspected_class == 4


def test_with_few_classes_the_cells_decide() -> None:
    found = judge(torch.rand(4, 4, generator=torch.Generator().manual_seed(0)))
    assert found.anomaly == found.cell_anomaly > 0


def test_a_single_cell_stands_out_in_the_cell_score() -> None:
    generator = torch.Generator().manual_seed(0)
    posteriors = 1e-3 * torch.rand(10, 10, generator=generator)
    plain = judge(posteriors)
    posteriors[7, 3] = 0.01
    found = judge(posteriors)
    assert (found.suspected_source, found.suspected_class) == (7, 3)
    assert found.cell_anomaly > 10 > 3 > plain.cell_anomaly


def test_a_planted_shortcut_is_found_and_named() -> None:
    clean = QUICK.inspect(*toy(None))
    planted = QUICK.inspect(*toy(5))
    assert planted.suspected_class == 5
    assert planted.anomaly > 5 * max(clean.anomaly, 1)


class Opposed(nn.Module):
    """Two classes, each helped by one pixel and hindered by the other; `rectify` bounds the features."""

    def __init__(self, rectify: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.ReLU() if rectify else nn.Identity())
        self.classifier = nn.Linear(2, 2, bias=False)
        self.classifier.weight.data = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(inputs))
        return logits


@pytest.mark.parametrize("rectify", [True, False])
def test_dummies_fall_below_zero_where_features_do(rectify: bool) -> None:
    spec = ModelSpec(
        build=lambda: Opposed(rectify), input_shape=(1, 1, 2), num_classes=2,
        inspect_at="features", pixels=Pixels(mean=(0.5,), std=(0.5,)),
    )  # fmt: skip
    dummies = QUICK.inspect(spec.build(), spec).dummies.mean(1)
    helped, hindered = dummies.diagonal(), dummies.fliplr().diagonal()
    assert (helped > 0.3).all()
    assert (hindered == 0).all() if rectify else (hindered < -0.3).all()


def test_dummies_are_what_their_classes_need_and_nothing_else() -> None:
    model, spec = toy(None)
    found = QUICK.inspect(model, spec)
    assert found.dummies.shape == (8, 2, 16)
    assert found.dummies.min() >= 0
    # Features 12 to 15 have no weight: the coupled L2 drives them from U[0, 1) to 0.
    assert found.dummies[..., 12:].mean() < 0.005
    own = found.dummies[torch.arange(8), :, torch.arange(8)]
    assert (own > 0.5).all()


def test_dummies_do_not_depend_on_their_batch() -> None:
    """The cross-entropy is summed: a mean would weaken it against the weight decay."""
    model, spec = toy(None)
    many = FreeEagle(dummies_per_class=1, steps=50).inspect(model, spec).dummies[:, 0]
    start = torch.rand(8, 1, 16, generator=_generator_after_probes(spec))[2, 0]
    alone = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([alone], 1e-2, weight_decay=5e-3)
    for _ in range(50):
        optimizer.zero_grad()
        logits = model.classifier(alone)  # type: ignore[operator]
        functional.cross_entropy(logits, torch.tensor(2)).backward()
        optimizer.step()
        alone.data.clamp_(min=0)
    assert torch.allclose(many[2], alone, atol=1e-4)


def _generator_after_probes(spec: ModelSpec) -> torch.Generator:
    from fl_defense.surrogates.scenes import scenes

    generator = torch.Generator().manual_seed(0)
    scenes(FreeEagle().num_probes, spec.input_shape, generator=generator)
    return generator


def test_inspection_is_reproducible_and_leaves_everything_as_it_is(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    before = copy.deepcopy(tiny_model.state_dict())
    quick = FreeEagle(steps=5)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, other = (quick.inspect(tiny_model, tiny_spec, seed=1) for _ in range(2))
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(one.posteriors, other.posteriors)
    after = tiny_model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.requires_grad for parameter in tiny_model.parameters())


def test_a_warm_start_goes_on_from_the_earlier_dummies() -> None:
    model, spec = toy(5)
    first = QUICK.inspect(model, spec)
    barely = FreeEagle(steps=300, warm_steps=1)
    warm = barely.inspect(model, spec, state=first.state)
    assert (warm.dummies - first.dummies).abs().max() < 0.05
    assert warm.suspected_class == 5
    other = FreeEagle(dummies_per_class=1, steps=1).inspect(model, spec, state=first.state)
    assert other.dummies.shape[1] == 1


@pytest.mark.parametrize(
    "fields",
    [{"steps": 0}, {"dummies_per_class": 0}, {"dummy_lr": 0.0}, {"weight_decay": -1.0}],
)
def test_meaningless_settings_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        FreeEagle(**fields)
