import math
from typing import Any

import pytest
import torch
from torch import nn

from fl_defense.model.spec import Pixels
from simulations.attack.context import Steps
from simulations.federation.trainer import Trainer
from simulations.scenario.training import Training

IMAGES = torch.randint(
    0, 256, (21, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
LABELS = torch.arange(21) % 3


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


class Counting(Steps):
    """Notes the size of each batch, its loss, and the gradient's norm before the step."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.kinds: set[torch.dtype] = set()

    def loss(self, model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(labels))
        self.kinds.add(model(inputs).dtype)
        loss = super().loss(model, inputs, labels)
        self.losses.append(loss.item())
        return loss

    def after_backward(self, model: nn.Module) -> None:
        squares = sum(float(each.grad.square().sum()) for each in model.parameters())  # type: ignore[union-attr]
        self.norms.append(math.sqrt(squares))


def fit(seed: int = 0, **settings: Any) -> tuple[float, Counting, nn.Module]:
    options = {"batch_size": 10, "learning_rate": 0.1} | settings
    training, counting, model = Training(**options), Counting(), network()
    trainer = Trainer(
        training,
        Pixels(),
        torch.Generator().manual_seed(seed),
        learning_rate=training.rate(1, 1),
    )
    loss = trainer.fit(model, IMAGES, LABELS, counting)
    return loss, counting, model


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_steps_go_on_through_as_many_passes_as_they_need() -> None:
    # 21 images in batches of 10: two batches a pass, for the last image alone is left out.
    loss, counting, _ = fit(steps=5)
    assert counting.sizes == [10] * 5
    assert loss == pytest.approx(counting.losses[-1])


def test_steps_of_whole_passes_are_epochs() -> None:
    loss, _, by_steps = fit(steps=4)
    other, _, by_epochs = fit(epochs=2)
    assert loss == other
    assert same(by_steps, by_epochs)


def test_fewer_steps_than_a_pass_end_within_it() -> None:
    loss, counting, _ = fit(steps=1)
    assert counting.sizes == [10]
    assert loss == pytest.approx(counting.losses[0])


def test_epochs_of_an_attack_hold_where_the_scenario_counts_steps() -> None:
    counting = Counting()
    draws = torch.Generator().manual_seed(0)
    trainer = Trainer(Training(steps=1, batch_size=10), Pixels(), draws, learning_rate=0.1)
    trainer.fit(network(), IMAGES, LABELS, counting, epochs=3)
    assert counting.sizes == [10] * 6


def test_gradients_are_cut_to_the_norm_and_shorter_ones_are_left_alone() -> None:
    _, free, model = fit(steps=2)
    assert min(free.norms) > 0.1
    _, cut, _ = fit(steps=2, max_gradient_norm=0.1)
    assert cut.norms == pytest.approx([0.1, 0.1], rel=1e-4)
    _, _, untouched = fit(steps=2, max_gradient_norm=1e6)
    assert same(model, untouched)


def test_bfloat16_computes_in_it_keeps_weights_in_float32_and_lands_nearby() -> None:
    _, full, one = fit(steps=3)
    loss, half, other = fit(steps=3, precision="bfloat16")
    assert (full.kinds, half.kinds) == ({torch.float32}, {torch.bfloat16})
    assert {each.dtype for each in other.parameters()} == {torch.float32}
    assert not same(one, other)
    assert loss == pytest.approx(full.losses[-1], rel=0.05)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adamax", "nadam", "radam", "rmsprop"])
def test_every_optimizer_learns(optimizer: str) -> None:
    _, counting, _ = fit(epochs=60, optimizer=optimizer, learning_rate=0.01)
    assert sum(counting.losses[-2:]) < 0.9 * sum(counting.losses[:2])


def test_the_learning_rate_of_an_attack_stands_for_that_of_the_round() -> None:
    draws = torch.Generator().manual_seed(0)
    settings = Training(epochs=1, batch_size=21, momentum=0, weight_decay=0)
    moves = []
    for own in (None, 0.4):
        model = network()
        trainer = Trainer(settings, Pixels(), draws, learning_rate=0.2)
        trainer.fit(model, IMAGES, LABELS, learning_rate=own)
        pairs = zip(model.parameters(), network().parameters(), strict=True)
        moves.append(torch.cat([(a - b).detach().flatten() for a, b in pairs]))
    torch.testing.assert_close(moves[1], 2 * moves[0], rtol=1e-3, atol=1e-5)


def test_transforms_are_drawn_by_the_clients_generator_alone() -> None:
    turned = {"transforms": [{"name": "RandomRotation", "arguments": {"degrees": 90}}]}
    torch.manual_seed(1)
    _, _, one = fit(**turned)
    before = torch.get_rng_state()
    _, _, other = fit(**turned)
    assert same(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(one, fit()[2])
    assert not same(one, fit(seed=1, **turned)[2])
