import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import ModelSpec, Pixels, try_model
from fl_defense.search.effects import gain_over_mean


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
    [
        ((0.5,), (0.5, 0.5), "same length"),
        ((0.5,), (0.0,), r"std must be in \(0, 1\]"),
        ((125.3,), (63.0,), "mean must be in .0, 1., as of pixels in .0, 1., got .125.3,.; divide"),
        ((0.5,), (63.0,), "of pixels of 0 to 255 by 255"),
        ((-0.5,), (0.5,), "mean must be"),
    ],
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


def test_a_network_in_place_of_what_makes_one_is_refused() -> None:
    with pytest.raises(ValueError, match="build must be called to make a network, got Linear; giv"):
        ModelSpec(build=nn.Linear(64, 3), input_shape=(1, 8, 8), num_classes=3)


class Unique(nn.Linear):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise TypeError("there is one")


def spec_of(build: Callable[[], object]) -> ModelSpec:
    return ModelSpec(build=build, input_shape=(1, 8, 8), num_classes=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (nn.Softmax(1), "must answer with logits, got what a softmax makes"),
        (nn.Sequential(nn.Softmax(1), nn.Unflatten(1, (3, 1)), nn.Flatten()), "a softmax makes"),
        (nn.Sigmoid(), "a sigmoid makes of them.*; return what goes into it"),
        (nn.Tanh(), "a tanh makes"),
        (nn.LazyLinear(3), "2.weight has no shape before the first image"),
        (Unique(3, 3), "cannot be copied .TypeError: there is one"),
    ],
    ids=["softmax", "softmax behind a view", "sigmoid", "tanh", "lazy", "unique"],
)
def test_networks_that_no_defense_can_work_on_are_refused(last: nn.Module, message: str) -> None:
    spec = spec_of(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3), last))
    with pytest.raises(ValueError, match=message):
        try_model(spec)


def test_shares_are_found_without_a_gradient_too() -> None:
    class Undifferentiable(nn.Linear):
        @torch.no_grad()
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images.flatten(1)).softmax(1)

    with pytest.raises(ValueError, match="got what a softmax makes"):
        try_model(spec_of(lambda: Undifferentiable(64, 3)))


def test_log_posteriors_are_as_good_as_logits() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.LogSoftmax(1))

    model = try_model(spec_of(build))
    before, after = torch.rand(2, 5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = model(after) - model(before)
    assert torch.allclose(
        gain_over_mean(moved), gain_over_mean(model[:2](after) - model[:2](before)), atol=1e-6
    )


def one_for_all() -> Callable[[], nn.Module]:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    return lambda: network


def one_trunk_for_all() -> Callable[[], nn.Module]:
    trunk = nn.Linear(64, 8)
    return lambda: nn.Sequential(nn.Flatten(), trunk, nn.Linear(8, 3))


def fails() -> nn.Module:
    raise TypeError("Net() takes 1 argument")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            one_for_all(),
            "must be a fresh one at each call of `build`, which returned '1.weight' tw",
        ),
        (one_trunk_for_all(), "must be a fresh one .*'1.weight' twice; make the network inside"),
        (fails, "cannot be built .TypeError: Net.. takes 1 argument.; change `build`"),
        (lambda: "resnet18", "must be a plain torch.nn.Module, got str"),
        (lambda: nn.DataParallel(nn.Linear(64, 3)), "got DataParallel .*neither wrapped nor comp"),
        (lambda: torch.compile(nn.Linear(64, 3)), "got OptimizedModule .*neither wrapped nor comp"),
    ],
    ids=["the same", "the same trunk", "fails", "no network", "wrapped", "compiled"],
)
def test_what_build_returns_must_be_a_fresh_plain_network(
    build: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        try_model(spec_of(build))


@pytest.mark.parametrize(
    ("last", "word"),
    [
        (lambda logits: logits.sigmoid() * 2 - 1, "a sigmoid"),
        (lambda logits: logits.softmax(1).double().float(), "a softmax"),
        (nn.functional.logsigmoid, "a log-sigmoid"),
        (nn.functional.softplus, "a softplus"),
        (torch.exp, "an exponential"),
    ],
)
def test_what_hides_behind_a_number_or_a_dtype_is_no_logit(
    last: Callable[[Tensor], Tensor], word: str
) -> None:
    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 3)

        def forward(self, images: Tensor) -> Tensor:
            return last(self.linear(images.flatten(1)))

    spec = ModelSpec(build=Squeezed, input_shape=(1, 8, 8), num_classes=3)
    with pytest.raises(ValueError, match=f"got what {word} makes of them"):
        try_model(spec)


def test_logits_times_a_temperature_and_moved_are_logits() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(64, 3), nn.Parameter(torch.tensor(2.0))

        def forward(self, images: Tensor) -> Tensor:
            return self.scale * (self.linear(images.flatten(1)) / 3 + 1)

    assert try_model(ModelSpec(build=Scaled, input_shape=(1, 8, 8), num_classes=3)) is not None


def test_a_network_in_half_precision_is_refused_with_the_cure() -> None:
    def half() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).half()

    spec = ModelSpec(build=half, input_shape=(1, 8, 8), num_classes=3)
    with pytest.raises(ValueError, match=r"built in float32, got '1.weight' in float16; let"):
        try_model(spec)


def test_numbers_that_are_none_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="num_classes must be a whole number, got '3'"):
        ModelSpec(build=nn.Identity, input_shape=(1, 8, 8), num_classes="3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mean must be numbers, one per channel"):
        Pixels(mean=("a",))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 8, 8.0), ("1", 8, 8), None, 8, (1, 8)])
def test_an_input_shape_is_three_whole_numbers(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"input_shape must be \(channels, height, width\), got"):
        ModelSpec(build=nn.Flatten, input_shape=shape, num_classes=3)


def test_pixels_that_are_no_numbers_are_refused() -> None:
    nothing: Any = None
    with pytest.raises(ValueError, match="mean must be numbers, one per channel, got None"):
        Pixels(mean=nothing)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (nn.Linear(4, 3, device="meta"), "1.weight has no values"),
        (nn.Linear(4, 3, dtype=torch.complex64), "takes no images"),
    ],
)
def test_networks_without_values_are_refused(last: nn.Module, message: str) -> None:
    spec = ModelSpec(
        build=lambda: nn.Sequential(nn.Flatten(), copy.deepcopy(last)),
        input_shape=(1, 2, 2),
        num_classes=3,
    )
    with pytest.raises(ValueError, match=message):
        try_model(spec)


def test_complex_answers_are_refused() -> None:
    class Complex(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs.flatten(1)).to(torch.complex64)

    spec = ModelSpec(build=lambda: Complex(4, 3), input_shape=(1, 2, 2), num_classes=3)
    with pytest.raises(ValueError, match=r"got numbers of torch\.complex64"):
        try_model(spec)
