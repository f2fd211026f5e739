import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.precision import Execution, Precision, in_fastest_layout

SHAPE = (3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    ).eval()


def computed_in(precision: Precision, model: nn.Module) -> nn.Module:
    return Execution(precision, model, SHAPE).of(model)


class Viewing(nn.Module):
    """Flattens as tutorials do: `view` wants the values in torch's order."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = network()[:3], network()[4]

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.after(self.before(inputs).view(-1, 8 * 36))
        return logits


def test_float32_gives_the_networks_own_answers() -> None:
    model, inputs = network(), torch.randn(5, *SHAPE)
    assert torch.allclose(computed_in("float32", model)(inputs), model(inputs), atol=1e-6)


def test_channels_lie_side_by_side_between_the_layers() -> None:
    model, seen = network(), []
    model[1].register_forward_hook(
        lambda _, arguments, __: seen.append(
            arguments[0].is_contiguous(memory_format=torch.channels_last)
        )
    )
    computed = computed_in("float32", model)
    seen.clear()
    computed(torch.randn(5, *SHAPE))
    assert seen == [True]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_networks_that_view_feature_maps_are_computed_too(precision: Precision) -> None:
    model, inputs = Viewing(), torch.randn(5, *SHAPE)
    model.eval()
    with pytest.raises(RuntimeError, match="view"):
        model(inputs.to(memory_format=torch.channels_last))
    assert torch.allclose(computed_in(precision, model)(inputs), model(inputs), atol=0.02)


def test_bfloat16_takes_and_gives_float32_and_is_nearly_the_same() -> None:
    model, inputs = network(), torch.randn(5, *SHAPE)
    exact, rough = model(inputs), computed_in("bfloat16", model)(inputs)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert torch.allclose(rough, exact, atol=0.02)


class Turning(nn.Module):
    """Its head wants the feature map as torch has it."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.contiguous()


def test_only_images_are_laid_out_anew() -> None:
    features = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), Turning())
    head = nn.Sequential(nn.Unflatten(1, (4, 4)), nn.Flatten(3))
    model = nn.Sequential(features, head).eval()
    computation = Execution("float32", model, SHAPE)
    assert computation.layout == torch.channels_last
    seen = computation.of(features)(torch.randn(2, *SHAPE))
    assert seen.is_contiguous()
    kept: list[bool] = []
    head.register_forward_pre_hook(lambda _, given: kept.append(given[0].is_contiguous()))
    computation.of(head)(seen)
    assert kept == [True]


def test_parts_that_take_rows_are_computed_too() -> None:
    model = network()
    head = Execution("bfloat16", model, SHAPE).of(model[-1])
    assert head(torch.ones(3, 8 * 36)).shape == (3, 4)


def test_gradients_reach_inputs_and_the_networks_own_parameters_in_float32() -> None:
    model, inputs = network(), torch.randn(5, *SHAPE, requires_grad=True)
    computed_in("bfloat16", model)(inputs).square().sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().max() > 0
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_an_optimizers_step_changes_the_next_answer() -> None:
    model, inputs = network(), torch.randn(5, *SHAPE)
    rough = computed_in("bfloat16", model)
    before = rough(inputs)
    with torch.no_grad():
        model[-1].bias += 1.0
        model[0].weight *= 2.0
    assert ((rough(inputs) - before).abs() > 0.5).any()
    assert torch.allclose(rough(inputs), model(inputs), atol=0.05)


def test_the_mode_is_the_networks() -> None:
    for training in (False, True):
        model = network()
        computation = Execution("bfloat16", model, SHAPE)
        rough = computation.of(model.train(training))
        assert rough.training is training
        rough.train(not training)
        assert all(part.training is not training for part in model.modules())


def test_kernels_lie_as_before_once_a_model_was_asked_in_its_fastest_layout() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2)).eval()
    before = [(each.data_ptr(), each.stride()) for each in model.parameters()]
    images = torch.rand(4, 2, 8, 8)
    with torch.no_grad():
        expected = model(images)
        with in_fastest_layout(model, (2, 8, 8)) as layout:
            assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
            found = model(images.contiguous(memory_format=layout))
    torch.testing.assert_close(found, expected)
    assert layout is torch.channels_last
    assert [(each.data_ptr(), each.stride()) for each in model.parameters()] == before
