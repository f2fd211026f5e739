from dataclasses import replace

import pytest
import torch
from torch import nn

from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import ModelSpec, Pixels, try_model


def test_normalize_is_per_channel_and_denormalize_undoes_it() -> None:
    pixels = Pixels(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    inputs = pixels.normalize(images)
    assert torch.allclose(inputs[:, 1], (images[:, 1] - 0.2) / 0.25)
    assert torch.allclose(pixels.denormalize(inputs), images, atol=1e-6)


def test_one_number_serves_all_channels() -> None:
    assert Pixels(mean=0.5, std=1) == Pixels(mean=(0.5,), std=(1,))  # type: ignore[arg-type]
    assert Pixels(mean=(0.5,), std=(0.5,)).normalize(torch.ones(1, 3, 2, 2)).eq(1).all()


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [((0.5,), (0.5, 0.5), "same length"), ((0.5,), (0.0,), "std must be positive")],
)
def test_pixels_refuse(mean: tuple[float, ...], std: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pixels(mean=mean, std=std)


@pytest.mark.parametrize(
    ("shape", "num_classes", "message"),
    [
        ((3, 0, 8), 2, "input_shape"),
        ((3, 8, 8), 1, "num_classes must be at least 2"),
    ],
)
def test_spec_refuses(shape: tuple[int, int, int], num_classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec(build=nn.Identity, input_shape=shape, num_classes=num_classes)


def test_spec_refuses_pixels_of_other_channels() -> None:
    with pytest.raises(ValueError, match="1 or 3 channels"):
        ModelSpec(
            build=nn.Identity,
            input_shape=(3, 8, 8),
            num_classes=2,
            pixels=Pixels(mean=(0.5, 0.5), std=(1.0, 1.0)),
        )


def test_deployed_model_purifies_then_normalizes() -> None:
    class Zero(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images * 0

    deployed = DeployedModel(nn.Flatten(), Pixels(mean=(0.5,), std=(0.25,)), purify=Zero())
    assert deployed(torch.ones(1, 1, 2, 2)).eq(-2).all()


def test_the_spec_cuts_where_it_is_told() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))

    spec = ModelSpec(build=build, input_shape=(1, 2, 2), num_classes=2)
    model = build()
    _, default_head = spec.split(model)
    assert len(list(default_head.parameters())) == 2
    _, head = replace(spec, inspect_at="1").split(model)
    assert len(list(head.parameters())) == 4


class Unique(nn.Linear):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise TypeError("there is one")


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (nn.Sequential(nn.Linear(64, 3), nn.Softmax(1)), "must answer with logits"),
        (nn.LazyLinear(3), "1.weight has no shape before the first image"),
        (Unique(64, 3), "cannot be copied .TypeError: there is one"),
    ],
    ids=["softmax", "lazy", "unique"],
)
def test_networks_that_no_defense_can_work_on_are_refused(last: nn.Module, message: str) -> None:
    spec = ModelSpec(
        build=lambda: nn.Sequential(nn.Flatten(), last), input_shape=(1, 8, 8), num_classes=3
    )
    with pytest.raises(ValueError, match=message):
        try_model(spec)


def test_log_softmax_is_as_good_as_logits() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.LogSoftmax(1))

    spec = ModelSpec(build=build, input_shape=(1, 8, 8), num_classes=3)
    assert try_model(spec)(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
