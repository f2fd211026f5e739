import torch

from fl_defense.model.gradient_reversal import reverse_gradient


def test_values_pass_and_gradients_change_their_sign_for_what_is_behind_alone() -> None:
    behind, ahead = torch.tensor(3.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    product = ahead * reverse_gradient(2 * behind)
    assert product == 30
    product.backward()
    assert ahead.grad == 6
    assert behind.grad == -10


def test_what_is_given_stays_apart_from_what_is_returned() -> None:
    given = torch.ones(3)
    assert reverse_gradient(given) is not given
