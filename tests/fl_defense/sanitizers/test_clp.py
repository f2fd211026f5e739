import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import CLP, NoEffectWarning, apply_sanitizer
from fl_defense.sanitizers.clp import channel_lipschitz_bounds, convolutions_with_batchnorm
from simulations.models.resnet import ResNet
from simulations.models.small_cnn import SmallCNN
from tests.backdoored import Backdoored

SHAPE = (3, 16, 16)


def spec_of(model: nn.Module) -> ModelSpec:
    return ModelSpec(build=lambda: model, input_shape=SHAPE, num_classes=10)


class PreActivationBlock(nn.Module):
    """BatchNorm and ReLU before each convolution; the modules are registered out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.norm_before = nn.BatchNorm2d(8)
        self.norm_between = nn.BatchNorm2d(8)
        self.first = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.first(self.norm_before(features).relu())
        out: Tensor = features + self.second(self.norm_between(hidden).relu_())
        return out


def test_bound_is_the_largest_singular_value_times_the_scale() -> None:
    torch.manual_seed(0)
    convolution, batchnorm = nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5, eps=0)
    nn.init.normal_(batchnorm.weight)
    assert batchnorm.running_var is not None
    batchnorm.running_var.uniform_(0.5, 2)
    expected = [
        torch.linalg.svdvals(convolution.weight[k].reshape(4, 9))[0]
        * batchnorm.weight[k].abs()
        / batchnorm.running_var[k].sqrt()
        for k in range(5)
    ]
    found = channel_lipschitz_bounds(convolution, batchnorm)
    assert torch.allclose(found, torch.stack(expected), rtol=1e-5)


def test_every_batchnorm_of_a_resnet_finds_its_convolution_shortcuts_included() -> None:
    model = ResNet(depth=10, width=4).build(SHAPE, 10).eval()
    pairs = convolutions_with_batchnorm(model, SHAPE)
    assert {batchnorm for _, batchnorm in pairs} == {
        module for module in model.modules() if isinstance(module, nn.BatchNorm2d)
    }
    assert all(len(conv.weight) == batchnorm.num_features for conv, batchnorm in pairs)


def test_pre_activation_pairs_follow_the_data_not_the_order_of_registration() -> None:
    stem, first, second = nn.Conv2d(3, 8, 3, padding=1), PreActivationBlock(), PreActivationBlock()
    model = nn.Sequential(stem, first, second).eval()
    assert convolutions_with_batchnorm(model, SHAPE) == [
        (stem, first.norm_before),
        (first.first, first.norm_between),
        # Not second.norm_before: it is given a sum.
        (second.first, second.norm_between),
    ]


@pytest.mark.parametrize("inplace", [True, False])
def test_an_activation_in_between_parts_the_pair(inplace: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=inplace), nn.BatchNorm2d(8)).eval()
    assert convolutions_with_batchnorm(model, SHAPE) == []


def test_a_planted_channel_is_switched_off_and_no_other() -> None:
    torch.manual_seed(0)
    model = ResNet(depth=10, width=16).build(SHAPE, 10).eval()
    convolution, batchnorm = convolutions_with_batchnorm(model, SHAPE)[2]
    with torch.no_grad():
        convolution.weight[5] *= 100
    result = apply_sanitizer(CLP(threshold=3.5), model, spec_of(model))
    assert result.details == {"num_channels": 720.0, "num_pruned": 1.0}
    before, after = model.state_dict(), result.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    (name,) = changed
    assert model.get_submodule(name.rpartition(".")[0]) is batchnorm
    assert (before[name] != after[name]).nonzero().flatten().tolist() == [5]


def test_a_network_without_batchnorm_is_refused() -> None:
    model = SmallCNN(norm="group").build(SHAPE, 10)
    with pytest.raises(ValueError, match="CLP measures convolutions followed by BatchNorm"):
        apply_sanitizer(CLP(), model, spec_of(model))


def test_nothing_stands_out_nothing_happens() -> None:
    model = ResNet(depth=10, width=4).build(SHAPE, 10)
    with pytest.warns(NoEffectWarning):
        apply_sanitizer(CLP(threshold=100), model, spec_of(model))


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_bad_threshold(value: float) -> None:
    with pytest.raises(ValueError, match="threshold must be positive"):
        CLP(threshold=value)


def test_what_it_switches_off_does_not_ruin_the_model(backdoored: Backdoored) -> None:
    accuracy, _, _ = backdoored.measure(DeployedModel(backdoored.model, backdoored.spec.pixels))
    result = apply_sanitizer(CLP(threshold=2.0), backdoored.model, backdoored.spec)
    repaired, _, _ = backdoored.measure(result.deployed(backdoored.spec))
    assert result.details["num_pruned"] > 0
    # A tenth of the channels may go: what that costs differs with the last bits of the training.
    assert repaired > accuracy - 0.2
