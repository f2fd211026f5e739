import copy
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.spec import ModelSpec, Pixels
from fl_defense.sanitizers import BCU, apply_sanitizer
from fl_defense.sanitizers.bcu import stages_by_map_size
from simulations.models.resnet import ResNet
from simulations.models.small_cnn import SmallCNN


def resnet_spec(width: int = 8) -> ModelSpec:
    return ModelSpec(
        build=partial(ResNet(depth=10, width=width).build, (3, 16, 16), 10),
        input_shape=(3, 16, 16),
        num_classes=10,
        pixels=Pixels(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
    )


def test_stages_of_a_resnet_are_told_by_map_size() -> None:
    model = resnet_spec().build().eval()
    stages, classifier = stages_by_map_size(model, (3, 16, 16))
    channels = [
        {model.get_submodule(name).out_channels for name in stage}  # type: ignore[misc]
        for stage in stages
    ]
    assert channels == [{8}, {16}, {32}, {64}]
    assert [len(stage) for stage in stages] == [3, 3, 3, 3]
    assert [type(model.get_submodule(name)) for name in classifier] == [nn.Linear]


def test_linear_layers_between_convolutions_go_with_the_convolution_before() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 36), nn.Unflatten(1, (1, 6, 6)),
        nn.Conv2d(1, 2, 3, stride=2), nn.Flatten(), nn.Linear(8, 5), nn.Linear(5, 3),
    ).eval()  # fmt: skip
    assert stages_by_map_size(model, (1, 8, 8)) == ([["0", "2"], ["4"]], ["6", "7"])


def test_a_network_of_linear_layers_is_all_classifier() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, 3)).eval()
    assert stages_by_map_size(model, (1, 8, 8)) == ([], ["1", "2"])


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((0.01, 0.01, 0.03, 0.09, 0.27), [0.01, 0.03, 0.09, 0.27]),
        ((0.1, 0.2), [0.1, 0.1, 0.1, 0.2]),
    ],
)
def test_rates_are_counted_from_the_deepest_stage(
    rates: tuple[float, ...], expected: list[float]
) -> None:
    spec = resnet_spec()
    model = spec.build().eval()
    by_name = BCU(stage_rates=rates, classifier_rate=0.5)._rates(model, spec)
    stages, classifier = stages_by_map_size(model, spec.input_shape)
    assert [{by_name[name] for name in stage} for stage in stages] == [{rate} for rate in expected]
    assert {by_name[name] for name in classifier} == {0.5}


def test_single_weights_are_replaced_at_their_stages_rate_and_batchnorm_is_kept() -> None:
    torch.manual_seed(0)
    spec = resnet_spec(width=16)
    before = spec.build().eval()
    after = copy.deepcopy(before)
    settings = BCU()
    num_replaced = settings._reinitialize(after, spec)
    rates = settings._rates(before, spec)
    num_changed = 0
    for name, module in before.named_modules():
        for key, value in module.named_parameters(recurse=False):
            changed = after.get_submodule(name).get_parameter(key) != value
            num_changed += int(changed.sum())
            rate = rates.get(name, 0.0)
            spread = math.sqrt(rate * (1 - rate) / value.numel())
            assert abs(changed.float().mean().item() - rate) <= 4 * spread, (name, key)
        for key, buffer in module.named_buffers(recurse=False):
            assert torch.equal(after.get_submodule(name).get_buffer(key), buffer)
    assert num_replaced == num_changed


def test_without_replacement_a_frozen_student_stays_the_teacher() -> None:
    spec = resnet_spec()
    settings = BCU(
        num_images=16, epochs=1, batch_size=8, stage_rates=(0.0,), classifier_rate=0.0,
        weight_decay=0.0,
    )  # fmt: skip
    suspect = spec.build().eval()
    result = apply_sanitizer(BCU(**vars(settings)), suspect, spec)
    assert result.details["loss"] == pytest.approx(0, abs=1e-6)
    for name, value in suspect.state_dict().items():
        assert torch.allclose(result.model.state_dict()[name], value, atol=1e-5), name


def test_loss_is_the_mean_divergence_of_softened_answers() -> None:
    torch.manual_seed(0)
    spec = resnet_spec()
    teacher = spec.build().eval().requires_grad_(False)
    student = copy.deepcopy(teacher).requires_grad_(True)
    with torch.no_grad():
        student[-1].weight.mul_(-50)  # type: ignore[index,union-attr,operator]
    images = torch.rand(4, 3, 16, 16)
    settings = BCU(num_images=4, epochs=1, batch_size=4, crop_padding=0, balance_classes=False)
    with torch.no_grad():
        inputs = spec.pixels.normalize(images)
        soft = (teacher(inputs) / 4).softmax(1)
        expected = (soft * (soft.log() - (student(inputs) / 4).log_softmax(1))).sum() / 4
    assert settings._distill(teacher, student, images, spec) == pytest.approx(
        expected.item(), rel=1e-4
    )


class Constant(nn.Module):
    """Answers the same to every image; notes the gradients of its answer and the images."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float32))
        self.gradients: list[float] = []
        self.logits.register_hook(lambda gradient: self.gradients.append(gradient[0].item()))
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(inputs)
        return self.logits.expand(len(inputs), -1)


TWO_CLASSES = ModelSpec(build=lambda: Constant(0, 0), input_shape=(1, 4, 4), num_classes=2)


def test_the_temperature_rises_in_equal_steps_from_epoch_to_epoch() -> None:
    student = Constant(0, 0)
    settings = BCU(num_images=4, epochs=3, batch_size=4, max_temperature=4, student_lr=1e-9)
    settings._distill(Constant(0, 3), student, torch.rand(4, 1, 4, 4), TWO_CLASSES)
    # (q - p) / T with the student's q of a half and the teacher's p of 1 / (1 + e^(3 / T)).
    expected = [(0.5 - 1 / (1 + math.exp(3 / t))) / t for t in (2, 3, 4)]
    assert student.gradients == pytest.approx(expected, rel=1e-5)


class Bright(nn.Module):
    """Says class 1 of bright images."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.eye(2)[(inputs.mean((1, 2, 3)) > 0.5).long()]


@pytest.mark.parametrize("balanced", [True, False])
def test_balanced_draws_show_the_rare_class_as_often_as_the_other(balanced: bool) -> None:
    torch.manual_seed(0)
    images = torch.zeros(100, 1, 4, 4)
    images[:10] = 1.0
    student = Constant(0, 0)
    settings = BCU(num_images=100, epochs=20, crop_padding=0, balance_classes=balanced)
    settings._distill(Bright(), student, images, TWO_CLASSES)
    shares = (torch.cat(student.seen) > 0).float().view(20, 100 * 16).mean(1)
    if balanced:
        assert shares.mean().item() == pytest.approx(0.5, abs=0.05)
    else:
        torch.testing.assert_close(shares, torch.full((20,), 0.1))


@pytest.mark.parametrize("flip", [True, False])
def test_images_are_shifted_and_mirrored_whole(flip: bool) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 6, 5) + 0.1
    padded = nn.functional.pad(image, [1] * 4)
    options = {
        tuple(shown[:, row : row + 6, column : column + 5].flatten().tolist())
        for row in range(3)
        for column in range(3)
        for shown in ((padded, padded.flip(2)) if flip else (padded,))
    }
    settings = BCU(crop_padding=1, flip=flip)
    drawn = settings._augment(image.expand(500, -1, -1, -1))
    assert {tuple(shown.flatten().tolist()) for shown in drawn} == options


@dataclass(frozen=True, kw_only=True)
class Gray:
    """Plain pictures, recording what was asked for."""

    asked: Any

    def draw(self, num: int, shape: tuple[int, int, int]) -> Tensor:
        self.asked.append((num, shape))
        return torch.linspace(0, 1, num)[:, None, None, None].expand(-1, *shape)


def test_images_come_from_the_surrogate() -> None:
    spec, asked = resnet_spec(), []
    settings = BCU(surrogate=Gray(asked=asked), num_images=10, candidates_per_image=3)
    images = settings._images(spec.build().eval(), spec)
    assert asked == [(30, (3, 16, 16))]
    assert images.shape == (10, 3, 16, 16)
    assert images.min() > -1e-6
    assert images.max() < 1 + 1e-6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"num_images": 1}, "num_images must be at least 2"),
        ({"student_lr": 0}, "student_lr must be positive"),
        ({"weight_decay": -1}, "weight_decay must be at least 0"),
        ({"stage_rates": ()}, "stage_rates and classifier_rate must be one or more in"),
        ({"stage_rates": (1.5,)}, "stage_rates and classifier_rate must be one or more in"),
        ({"classifier_rate": -0.1}, "stage_rates and classifier_rate must be one or more in"),
        ({"max_temperature": 0.5}, "max_temperature must be at least 1"),
    ],
)
def test_bad_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BCU(**values)


def test_presets() -> None:
    assert BCU.presets()["per-round"] == BCU()
    assert BCU.presets()["faithful"].epochs == 100


def test_networks_without_batchnorm_can_be_reinitialised() -> None:
    for build in (SmallCNN(norm="group").build, SmallCNN(norm="none").build):
        spec = ModelSpec(build=partial(build, (1, 8, 8), 3), input_shape=(1, 8, 8), num_classes=3)
        result = apply_sanitizer(BCU(num_images=8, epochs=1, batch_size=4), spec.build(), spec)
        assert result.details["num_reinitialized"] > 0
