from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from fl_defense.model.split import default_cut, possible_cuts, split_at
from simulations.models.resnet import ResNet
from simulations.models.small_cnn import SmallCNN

NETWORKS = {
    "torchvision resnet18": (torchvision.models.resnet18, (3, 32, 32), "layer3.0"),
    "torchvision vgg11_bn": (torchvision.models.vgg11_bn, (3, 32, 32), "features.24"),
    "torchvision mobilenet_v3_small": (
        torchvision.models.mobilenet_v3_small, (3, 32, 32), "features.8",
    ),
    "resnet": (lambda: ResNet(depth=10, width=8).build((1, 28, 28), 10), (1, 28, 28), "4"),
    "small-cnn": (lambda: SmallCNN(width=8).build((1, 16, 16), 10), (1, 16, 16), "7"),
}  # fmt: skip

every_network = pytest.mark.parametrize(
    ("build", "shape", "default"), NETWORKS.values(), ids=NETWORKS.keys()
)


@every_network
def test_head_after_features_is_the_model_at_every_cut(
    build: type[nn.Module], shape: tuple[int, int, int], default: str
) -> None:
    torch.manual_seed(0)
    model = build()
    model(torch.randn(4, *shape))  # BatchNorm statistics other than their initial values
    model.eval()
    inputs = torch.randn(2, *shape)
    names = possible_cuts(model)
    assert default == default_cut(model)
    for name in {names[0], names[len(names) // 2], default, names[-1]}:
        features, head = split_at(model, name)
        with torch.no_grad():
            found = features(inputs)
            kept = found.clone()
            assert torch.allclose(head(found), model(inputs), atol=1e-5), name
        assert torch.equal(found, kept), f"the head wrote into its features at {name}"


def test_the_parts_share_the_models_weights_and_leave_its_mode() -> None:
    model = ResNet(depth=10, width=4).build((1, 8, 8), 3).train()
    features, head = split_at(model, "4")
    parts = [*features.parameters(), *head.parameters()]
    assert {id(p) for p in parts} == {id(p) for p in model.parameters()}
    assert all(module.training for module in model.modules())
    inputs = torch.randn(2, 1, 8, 8)
    model.eval()
    before = model(inputs)
    with torch.no_grad():
        next(iter(head.parameters())).mul_(2)
    assert not torch.allclose(model(inputs), before)
    assert torch.allclose(head(features(inputs)), model(inputs), atol=1e-6)


def test_a_cut_that_a_shortcut_passes_is_refused_with_those_that_work() -> None:
    model = torchvision.models.resnet18(num_classes=3)
    with pytest.raises(ValueError, match=r"cannot cut at 'layer3.0.conv1'.*passes around") as error:
        split_at(model, "layer3.0.conv1")
    assert "possible: conv1, bn1, relu, maxpool, layer1.0, layer1, layer2.0, layer2," in str(
        error.value
    )


class SizedByImages(nn.Module):
    """Flattens by the number of images, which it asks the images for, as tutorials do."""

    def __init__(self, spelling: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.spelling = spelling
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(256, 16), nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        num = self.spelling(images)
        features = self.conv2(self.conv1(images).relu()).relu()
        logits: Tensor = self.fc2(self.fc1(features.view(num, -1)).relu())
        return logits


def unpacked(images: Tensor) -> int:
    num, _, _, _ = images.shape
    return num


@pytest.mark.parametrize(
    "spelling",
    [
        lambda images: images.size(0),
        lambda images: images.shape[0],
        lambda images: images.size()[0],
        unpacked,
    ],
    ids=["size(0)", "shape[0]", "size()[0]", "unpacked"],
)
def test_the_number_of_images_passes_around_no_cut(spelling: Callable[[Tensor], int]) -> None:
    torch.manual_seed(0)
    model, images = SizedByImages(spelling).eval(), torch.randn(5, 1, 8, 8)
    assert possible_cuts(model) == ["conv1", "conv2", "fc1"]
    assert default_cut(model) == "conv2"
    for name in possible_cuts(model):
        features, head = split_at(model, name)
        assert torch.allclose(head(features(images)), model(images), atol=1e-6)


class AddsTheImages(SizedByImages):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + images.shape[1] * images.mean()


def test_other_news_of_the_images_still_bars_a_cut() -> None:
    assert possible_cuts(AddsTheImages(lambda images: images.size(0))) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layer9", "no submodule 'layer9'; possible: conv1"),
        ("", "no submodule ''"),
        ("layer1.0.relu", "'layer1.0.relu' must be called once, got 2 calls"),
        ("fc", "cannot cut at 'fc'"),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_at(torchvision.models.resnet18(), name)


class Undecided(nn.Module):
    """Decides by a tensor's value: `torch.fx` cannot trace it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.linear(inputs)
        return out if out.sum() > 0 else -out


def test_children_that_cannot_be_traced_stay_whole() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Undecided(), nn.Linear(4, 2)).eval()
    assert possible_cuts(model) == ["0", "1"]
    features, head = split_at(model, "1")
    inputs = torch.randn(3, 4)
    assert torch.equal(head(features(inputs)), model(inputs))


def test_a_model_that_cannot_be_traced_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"cannot trace Undecided .*; keep decisions"):
        split_at(Undecided(), "linear")


class Ends(nn.Module):
    """A constant, an in-place sum and a parameter without module, in one path."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.first(inputs)
        features += torch.ones(4)
        logits: Tensor = self.last(features * self.gain)
        return logits


def test_what_is_no_module_goes_with_its_side() -> None:
    model = Ends()
    before = set(vars(model))
    features, head = split_at(model, "first")
    inputs = torch.randn(3, 4)
    assert torch.allclose(head(features(inputs)), model(inputs))
    assert any(parameter is model.gain for parameter in head.parameters())
    assert set(vars(model)) == before


def test_a_model_without_inner_modules_has_no_default() -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        default_cut(nn.Sequential(nn.Linear(4, 2)))


def test_a_vision_transformer_is_cut_between_its_layers() -> None:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=16,
        num_classes=3,
    ).eval()  # fmt: skip
    assert default_cut(model) == "encoder.layers.encoder_layer_1"
    features, head = split_at(model, default_cut(model))
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(head(features(images)), model(images), atol=1e-5)
