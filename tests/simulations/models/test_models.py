from typing import Any

import pytest
import torch

from simulations.models.base import Architecture
from simulations.models.resnet import ResNet
from simulations.models.small_cnn import SmallCNN
from simulations.scenario.imports import Factory


@pytest.mark.parametrize(
    "architecture",
    [
        SmallCNN(width=4),
        SmallCNN(width=4, norm="group"),
        SmallCNN(width=4, norm="none"),
        ResNet(depth=10, width=4),
        ResNet(depth=18, width=8, norm="group"),
        ResNet(depth=10, width=4, pre_activation=True),
        ResNet(depth=18, width=4, norm="none", pre_activation=True),
        Factory(path="torchvision.models:resnet18"),
    ],
)
@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 28, 20)])
def test_networks_map_images_to_logits_and_learn(
    architecture: Architecture, shape: tuple[int, int, int]
) -> None:
    model = architecture.build(shape, 7)
    logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("pre_activation", [False, True])
def test_depth_counts_weighted_layers(pre_activation: bool) -> None:
    for depth in (10, 18):
        resnet = ResNet(depth=depth, width=4, pre_activation=pre_activation)  # type: ignore[arg-type]
        model = resnet.build((1, 28, 28), 10)
        kinds = (torch.nn.Conv2d, torch.nn.Linear)
        main = [n for n, m in model.named_modules() if isinstance(m, kinds) and "shortcut" not in n]
        assert len(main) == depth


def test_pre_activation_leaves_the_identity_path_untouched() -> None:
    model = ResNet(depth=18, width=4, norm="none", pre_activation=True).build((1, 16, 16), 3)
    block = model[2]
    features = torch.randn(2, 4, 16, 16)
    kept = features.clone()
    torch.testing.assert_close(block(features) - block.residual(features.relu()), kept)
    assert torch.equal(features, kept)


def test_norms_are_as_named() -> None:
    def has(norm: Any, kind: type) -> bool:
        return any(isinstance(m, kind) for m in SmallCNN(norm=norm).build((1, 16, 16), 3).modules())

    assert has("batch", torch.nn.BatchNorm2d)
    assert has("group", torch.nn.GroupNorm)
    assert not has("none", torch.nn.BatchNorm2d)


def test_a_factory_takes_arguments() -> None:
    factory = Factory(path="torchvision.models:mobilenet_v3_small", arguments={"width_mult": 0.5})
    assert factory.build((3, 32, 32), 5)(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_a_class_that_takes_no_number_of_classes_is_called_without_it() -> None:
    assert isinstance(Factory(path="torch.nn:Flatten").build((1, 2, 2), 5), torch.nn.Flatten)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package:net", "cannot import 'no_such_package:net'"),
        ("torchvision.models:no_such_net", "cannot import"),
        (
            "torchvision.models:__name__",
            "must be a subclass of Module, or a function annotated to return one; got str",
        ),
        ("os:system", "must be a subclass of Module"),
        ("os:popen", r"must be .*: def popen\(\.\.\.\) -> Module; got function"),
        ("builtins:dict", "must be a subclass of Module"),
    ],
)
def test_a_factory_that_cannot_be_had_is_refused(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Factory(path=path)


def not_really() -> torch.nn.Module:
    return {}  # type: ignore[return-value]


def test_a_factory_must_return_a_module() -> None:
    with pytest.raises(ValueError, match=r"must return a Module, got dict"):
        Factory(path=f"{__name__}:not_really").build((1, 8, 8), 2)


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        SmallCNN(width=0)
