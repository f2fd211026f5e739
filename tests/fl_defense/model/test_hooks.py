import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.hooks import blank_pass, observe_layers, removed_after


def is_weighted(_: str, layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.BatchNorm2d)


class TwoPaths(nn.Module):
    """Two convolutions of the same input, the second one called first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, inputs: Tensor) -> Tensor:
        second = self.second(inputs)
        output: Tensor = self.norm(self.first(inputs)) + second
        return output


def test_calls_are_told_in_their_order_with_shapes_and_without_gradient() -> None:
    calls = observe_layers(TwoPaths().eval(), (1, 6, 6), is_weighted)
    assert [call.name for call in calls] == ["second", "first", "norm"]
    assert [tuple(call.output.shape) for call in calls] == [(1, 2, 4, 4)] * 3
    assert not calls[0].output.requires_grad
    assert calls[0].inputs.abs().max() == 0


def test_what_a_layer_is_given_is_traced_back_to_the_layer_that_made_it() -> None:
    second, first, norm = observe_layers(TwoPaths().eval(), (1, 6, 6), is_weighted)
    assert norm.is_given_output_of(first)
    assert not norm.is_given_output_of(second)


@pytest.mark.parametrize("inplace", [True, False])
def test_a_change_in_place_breaks_the_trace(inplace: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace), nn.BatchNorm2d(2)).eval()
    convolution, norm = observe_layers(model, (1, 6, 6), is_weighted)
    assert not norm.is_given_output_of(convolution)


def test_hooks_are_gone_afterwards_also_after_a_failure() -> None:
    model = nn.Conv2d(1, 2, 3)
    with pytest.raises(RuntimeError):
        observe_layers(model, (3, 6, 6), is_weighted)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    hook = model.register_forward_hook(lambda *_: None)
    with pytest.raises(KeyError), removed_after([hook]):
        raise KeyError
    assert not model._forward_hooks


def test_a_layer_that_is_called_with_keywords_alone_is_observed() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(1, 2, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = self.inner(input=inputs)
            return output

    (call,) = observe_layers(Named().eval(), (1, 6, 6), is_weighted)
    assert call.inputs is None
    assert call.output.shape == (1, 2, 4, 4)


def test_a_blank_pass_draws_nothing() -> None:
    model = TwoPaths().eval()
    before = torch.get_rng_state()
    blank_pass(model, (1, 6, 6))
    assert torch.equal(torch.get_rng_state(), before)
