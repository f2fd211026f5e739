from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import ModelSpec, Pixels
from fl_defense.sanitizers import DeepCleanse, apply_sanitizer
from fl_defense.sanitizers.deep_cleanse.completion import (
    CompletionNetwork,
    TrainingHoles,
    train_completion,
)
from fl_defense.sanitizers.deep_cleanse.purifier import (
    Purifier,
    layers_to_look_at,
    maps_and_gradients,
)
from fl_defense.surrogates.scenes import scenes
from simulations.models.resnet import ResNet
from simulations.models.small_cnn import SmallCNN
from tests.backdoored import Backdoored

QUICK = DeepCleanse(
    num_images=32, num_limit_images=16, completion_width=2, completion_steps=2, batch_size=8
)


class Corner(nn.Module):
    """Two classes, told apart by the brightness of the upper left 4x4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2)

    def forward(self, inputs: Tensor) -> Tensor:
        bright = self.pool(inputs)[:, :, :2, :2].mean((1, 2, 3))
        return torch.stack([bright, torch.zeros_like(bright)], dim=1)


def corner_purifier(hole_limit: float = 1.0) -> Purifier:
    completion = CompletionNetwork(1, 2, torch.tensor((0.5,))).eval()
    pixels = Pixels(mean=(0.0,), std=(1.0,))
    return Purifier(Corner(), ["pool"], "fused", pixels, completion, 0.4, hole_limit).eval()


def test_what_decides_is_cut_out_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 1, 16, 16) * 0.2 + 0.8
    purified = corner_purifier()(images)
    changed = (purified != images).all(0)[0]
    assert changed[:4, :4].all()
    assert not changed[6:, :].any()
    assert not changed[:, 6:].any()


def test_a_large_hole_is_not_cut() -> None:
    images = torch.rand(3, 1, 16, 16) * 0.2 + 0.8
    assert torch.equal(corner_purifier(hole_limit=0.05)(images), images)


def test_an_image_without_a_salient_place_stays_as_it_is() -> None:
    images = torch.zeros(2, 1, 16, 16)
    assert torch.equal(corner_purifier()(images), images)


def test_a_batch_is_purified_as_each_image_by_itself() -> None:
    torch.manual_seed(0)
    spec = ModelSpec(
        build=partial(ResNet(depth=10, width=4).build, (3, 16, 16), 5),
        input_shape=(3, 16, 16),
        num_classes=5,
    )
    purify = apply_sanitizer(QUICK, spec.build(), spec).purify
    assert purify is not None
    images = torch.rand(6, 3, 16, 16)
    alone = torch.cat([purify(image[None]) for image in images])
    assert torch.allclose(purify(images), alone, atol=1e-5)


def test_gradients_are_those_of_the_predicted_class() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4),
    ).eval().requires_grad_(False)  # fmt: skip
    inputs = torch.randn(5, 1, 6, 6)
    (first, in_first), (second, in_second) = maps_and_gradients(model, ["1", "2"], inputs)
    assert torch.equal(first, model[:2](inputs))
    assert torch.equal(second, model[:3](inputs))
    weights = model[6].weight[model(inputs).argmax(1)] / 9
    expected = weights[:, :, None, None] * (second > 0)
    assert torch.allclose(in_second, expected.expand_as(second), atol=1e-6)
    assert torch.allclose(in_first.sum((2, 3)), in_second.sum((2, 3)), atol=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("build", "shape", "sides"),
    [
        (ResNet(depth=10, width=4).build, (3, 32, 32), [16, 8, 4]),
        (ResNet(depth=10, width=4).build, (1, 28, 28), [14, 7, 4]),
        (SmallCNN(width=4).build, (1, 16, 16), [8, 4]),
        (SmallCNN(width=4).build, (1, 8, 8), [4]),
    ],
)
def test_the_last_map_of_each_size_is_looked_at(
    build: Any, shape: tuple[int, int, int], sides: list[int]
) -> None:
    spec = ModelSpec(build=partial(build, shape, 10), input_shape=shape, num_classes=10)
    model = spec.build().eval().requires_grad_(False)
    layers = layers_to_look_at(model, spec, 4)
    seen = maps_and_gradients(model, layers, torch.rand(1, *shape))
    assert [maps.shape[2] for maps, _ in seen] == sides
    assert all(maps.min() >= 0 for maps, _ in seen)


def test_a_network_without_maps_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 3))
    spec = ModelSpec(build=lambda: model, input_shape=(1, 8, 8), num_classes=3)
    with pytest.raises(ValueError, match="DeepCleanse needs a feature map"):
        apply_sanitizer(QUICK, model, spec)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 32), (30, 21), (8, 8)])
def test_holes_of_every_size_are_filled_and_the_rest_is_kept(height: int, width: int) -> None:
    torch.manual_seed(0)
    network = CompletionNetwork(3, 2, torch.tensor((0.1, 0.2, 0.3))).eval()
    images = torch.rand(40, 3, height, width)
    holes = TrainingHoles().draw(images)
    assert holes.shape == (40, 1, height, width)
    assert set(holes.unique().tolist()) == {0.0, 1.0}
    assert holes.mean((1, 2, 3)).max() < 0.35
    assert holes.sum((1, 2, 3)).min() > 0
    filled = network(images, holes)
    assert torch.equal(filled * (1 - holes), images * (1 - holes))
    assert filled.min() >= 0
    assert filled.max() <= 1


def test_training_fills_better_than_the_mean() -> None:
    torch.manual_seed(0)
    images = scenes(200, (1, 16, 16))
    network = CompletionNetwork(1, 4, torch.tensor((0.5,)))
    train_completion(network, images, TrainingHoles(), steps=60, batch_size=32, lr=5e-3)
    holes = TrainingHoles().draw(images)
    with torch.no_grad():
        filled = ((network(images, holes) - images).square() * holes).sum() / holes.sum()
    plain = ((0.5 - images).square() * holes).sum() / holes.sum()
    assert filled < 0.85 * plain


def test_weights_stay_and_the_network_is_carried_on(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    first = apply_sanitizer(QUICK, tiny_model, tiny_spec, seed=1)
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(first.model.state_dict()[name], value)
    assert first.details["completion_loss"] > 0
    second = apply_sanitizer(QUICK, tiny_model, tiny_spec, seed=2, state=first.state)
    assert second.details["completion_loss"] == 0
    images = torch.rand(4, 1, 8, 8)
    assert first.purify is not None
    assert second.purify is not None
    holes = TrainingHoles().draw(images)
    assert torch.equal(
        first.purify.completion(images, holes), second.purify.completion(images, holes)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_images": 0}, "num_images must be at least 1"),
        ({"completion_lr": 0}, "completion_lr must be positive"),
        ({"min_agreement": 2}, r"min_agreement must be in \[0, 1\]"),
        ({"threshold": 0}, r"threshold must be in \(0, 1\]"),
        ({"hole_limits": ()}, "hole_limits must be descending"),
        ({"hole_limits": (0.1, 0.2)}, "hole_limits must be descending"),
        ({"hole_limits": (1.5,)}, "hole_limits must be descending"),
    ],
)
def test_bad_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepCleanse(**values)


def test_the_backdoor_falls_for_the_system_and_stays_in_the_model(backdoored: Backdoored) -> None:
    settings = DeepCleanse(
        num_images=1000, num_limit_images=256, completion_width=8, completion_steps=150
    )
    result = apply_sanitizer(settings, backdoored.model, backdoored.spec)
    system = backdoored.measure(result.deployed(backdoored.spec))
    model = backdoored.measure(DeployedModel(result.model, backdoored.spec.pixels))
    assert model[1] > 0.95
    assert system[1] < 0.3
    assert system[0] > 0.8
