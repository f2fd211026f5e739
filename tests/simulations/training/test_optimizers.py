from typing import get_args

import pytest
import torch

from simulations.training.optimizers import OptimizerName, build_optimizer


def moved(name: OptimizerName, gradients: list[float], **settings: float | bool) -> float:
    """Where a weight of 1 is after steps along these gradients, with a learning rate of 0.1."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    usual = {"momentum": 0.0, "weight_decay": 0.0} | settings
    optimizer = build_optimizer(name, [weight], learning_rate=0.1, **usual)  # type: ignore[arg-type]
    for gradient in gradients:
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    return weight.item()


def test_every_name_is_an_optimizer_of_torch() -> None:
    for name in get_args(OptimizerName):
        weight = torch.nn.Parameter(torch.tensor([1.0]))
        made = build_optimizer(name, [weight], learning_rate=0.1, momentum=0.9, weight_decay=0.01)
        assert type(made).__name__.lower() == name
        assert type(made).__module__.startswith("torch.optim")
        assert made.defaults["weight_decay"] == 0.01
        assert made.defaults.get("momentum", made.defaults.get("betas", (0,))[0]) == 0.9


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        # Gradients 1 and 2. SGD: 1 - 0.1 * (1 + 2), then with momentum 0.5: 1, and 2 + 0.5 * 1.
        ("sgd", {}, 0.7),
        ("sgd", {"momentum": 0.5}, 1 - 0.1 * (1 + 2.5)),
        # Nesterov: gradient + 0.5 * buffer: 1 + 0.5 * 1, and 2 + 0.5 * 2.5.
        ("sgd", {"momentum": 0.5, "nesterov": True}, 1 - 0.1 * (1.5 + 3.25)),
        # Weight decay 0.5: 1 + 0.5 * 1 -> 0.85; 2 + 0.5 * 0.85.
        ("sgd", {"weight_decay": 0.5}, 0.85 - 0.1 * 2.425),
    ],
)
def test_two_steps_by_hand(
    name: OptimizerName, settings: dict[str, float | bool], expected: float
) -> None:
    assert moved(name, [1.0, 2.0], **settings) == pytest.approx(expected, rel=1e-6)


def test_adam_steps_by_the_learning_rate_and_adamw_decays_the_weight_beside_it() -> None:
    assert moved("adam", [7.0], momentum=0.9) == pytest.approx(0.9, rel=1e-6)
    assert moved("adamw", [7.0], momentum=0.9, weight_decay=0.5) == pytest.approx(
        1 * (1 - 0.1 * 0.5) - 0.1, rel=1e-6
    )
