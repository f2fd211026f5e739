import pytest
import torch

from simulations.attack.updates import moved, norm_of, scaled, update_of, wholly_scaled

RECEIVED = {"w": torch.tensor([1.0, 1.0]), "b": torch.tensor([2.0]), "n": torch.tensor(4)}
TRAINED = {"w": torch.tensor([4.0, 1.0]), "b": torch.tensor([6.0]), "n": torch.tensor(9)}


def test_an_update_is_of_weights_alone_and_its_norm_over_all_of_them() -> None:
    update = update_of(TRAINED, RECEIVED, {"w", "b"})
    assert {name: value.tolist() for name, value in update.items()} == {"w": [3.0, 0.0], "b": [4.0]}
    assert norm_of(update) == pytest.approx(5)
    assert norm_of({}) == 0


def test_scaling_and_moving_leave_buffers_as_trained() -> None:
    half = scaled(TRAINED, RECEIVED, {"w", "b"}, -0.5)
    assert half["w"].tolist() == [-0.5, 1.0]
    assert half["b"].tolist() == [0.0]
    assert half["n"] == 9
    other = moved(TRAINED, RECEIVED, {"b": torch.tensor([1.0])})
    assert (other["b"].tolist(), other["w"].tolist(), int(other["n"])) == ([3.0], [4.0, 1.0], 9)


def test_whole_models_are_scaled_with_their_statistics_and_no_variance_below_zero() -> None:
    received = {
        "w": torch.tensor([1.0]),
        "norm.running_mean": torch.tensor([2.0]),
        "norm.running_var": torch.tensor([3.0, 3.0]),
        "norm.num_batches_tracked": torch.tensor(4),
    }
    trained = {
        "w": torch.tensor([1.5]),
        "norm.running_mean": torch.tensor([1.0]),
        "norm.running_var": torch.tensor([2.0, 4.0]),
        "norm.num_batches_tracked": torch.tensor(9),
    }
    sent = wholly_scaled(trained, received, 4)
    assert {name: value.tolist() for name, value in sent.items()} == {
        "w": [3.0],  # 1 + 4 * 0.5
        "norm.running_mean": [-2.0],  # 2 - 4 * 1
        "norm.running_var": [0.0, 7.0],  # 3 - 4 * 1 would be negative; 3 + 4 * 1
        "norm.num_batches_tracked": 9,
    }
