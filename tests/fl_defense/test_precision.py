import torch
from torch import nn

from fl_defense.precision import computed_in


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    ).eval()


def test_float32_is_the_network_itself() -> None:
    model = network()
    assert computed_in("float32", model) is model


def test_bfloat16_takes_and_gives_float32_and_is_nearly_the_same() -> None:
    model, inputs = network(), torch.randn(5, 3, 8, 8)
    exact, rough = model(inputs), computed_in("bfloat16", model)(inputs)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert torch.allclose(rough, exact, atol=0.02)
    flat = nn.Linear(4, 2)
    assert computed_in("bfloat16", flat)(torch.ones(3, 4)).shape == (3, 2)


def test_gradients_reach_inputs_and_the_networks_own_parameters_in_float32() -> None:
    model, inputs = network(), torch.randn(5, 3, 8, 8, requires_grad=True)
    computed_in("bfloat16", model)(inputs).square().sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().max() > 0
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_an_optimizers_step_changes_the_next_answer() -> None:
    model, inputs = network(), torch.randn(5, 3, 8, 8)
    rough = computed_in("bfloat16", model)
    before = rough(inputs)
    with torch.no_grad():
        model[-1].bias += 1.0
        model[0].weight *= 2.0
    assert ((rough(inputs) - before).abs() > 0.5).any()
    assert torch.allclose(rough(inputs), model(inputs), atol=0.05)


def test_the_mode_is_the_networks() -> None:
    for training in (False, True):
        model = network().train(training)
        rough = computed_in("bfloat16", model)
        assert rough.training is training
        rough.train(not training)
        assert all(part.training is not training for part in model.modules())
