from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional

from simulations.attack.badnets import BadNets
from simulations.attack.context import AttackContext, Steps
from simulations.attack.malicious_clients import MaliciousClients
from simulations.data import Digits
from simulations.engines import InProcessEngine
from simulations.federation.local_training import train_client
from simulations.federation.server import initial_model
from simulations.models.small_cnn import SmallCNN
from simulations.scenario.imports import Factory
from simulations.scenario.scenario import Clients, Scenario
from simulations.scenario.training import Training

SCENARIO = Scenario(
    name="x",
    data=Digits(max_train=120),
    model=SmallCNN(width=4),
    clients=Clients(count=4),
    training=Training(batch_size=8),
    attack=BadNets(malicious=(2,), first_round=2),
    engine=InProcessEngine(),
)
RECEIVED = initial_model(SCENARIO.model_spec(), 0).state_dict()
Arrays = dict[str, torch.Tensor]


def train(
    partition: int, server_round: int = 1, scenario: Scenario = SCENARIO, mu: float = 0.0
) -> tuple[Arrays, dict[str, float]]:
    arrays, metrics = train_client(
        scenario, partition, server_round=server_round, received=RECEIVED, proximal_mu=mu
    )
    return dict(arrays), dict(metrics)


def distance(arrays: Arrays) -> float:
    squares = [
        (arrays[name] - value).square().sum().item()
        for name, value in RECEIVED.items()
        if value.is_floating_point() and "running" not in name
    ]
    return float(sum(squares))


def equal(one: Arrays, other: Arrays) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_training_moves_the_model_and_reports_its_size() -> None:
    arrays, metrics = train(0)
    assert metrics["num-examples"] == 30
    assert metrics["train-loss"] > 0
    assert arrays.keys() == RECEIVED.keys()
    assert distance(arrays) > 0


class Viewing(nn.Module):
    """Flattens as tutorials do: `view` wants the values in torch's order."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(1024, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.after(self.before(images).relu().view(-1, 1024))
        return logits


class ViewingKernels(Viewing):
    """Standardises its kernels, which it views as rows."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        kernels = self.before.weight
        rows = kernels.view(len(kernels), -1)
        standard = (rows - rows.mean(1, keepdim=True)).view_as(kernels)
        features = functional.conv2d(images, standard, padding=1)
        logits: torch.Tensor = self.after(features.flatten(1))
        return logits


@pytest.mark.parametrize("augmentation", ["none", "crop"])
@pytest.mark.parametrize("name", ["Viewing", "ViewingKernels"])
def test_networks_that_view_maps_or_kernels_are_trained_too(name: str, augmentation: str) -> None:
    network = Factory(path=f"{__name__}:{name}")
    training = SCENARIO.training.model_copy(update={"augmentation": augmentation})
    scenario = SCENARIO.model_copy(update={"model": network, "training": training})
    received = initial_model(scenario.model_spec(), 0).state_dict()
    arrays, _ = train_client(scenario, 0, server_round=1, received=received)
    assert not equal(dict(arrays), received)


def test_training_is_a_function_of_seed_partition_and_round() -> None:
    torch.manual_seed(1)
    first = train(0)[0]
    torch.manual_seed(2)
    assert equal(first, train(0)[0])
    assert not equal(first, train(0, server_round=2)[0])
    assert not equal(first, train(1)[0])
    assert not equal(first, train(0, scenario=SCENARIO.model_copy(update={"seed": 1}))[0])


def test_a_malicious_client_is_honest_before_its_attack_and_reports_the_same_keys() -> None:
    honest = SCENARIO.model_copy(update={"attack": BadNets(malicious=(3,), first_round=2)})
    assert equal(train(2, 1)[0], train(2, 1, honest)[0])
    attacked, metrics = train(2, 2)
    assert not equal(attacked, train(2, 2, honest)[0])
    assert metrics.keys() == train(2, 2, honest)[1].keys()
    assert equal(train(0, 2)[0], train(0, 2, honest)[0])


def test_a_boosted_update_is_scaled() -> None:
    plain = SCENARIO.model_copy(update={"attack": BadNets(malicious=(2,))})
    boosted = SCENARIO.model_copy(update={"attack": BadNets(malicious=(2,), boost=3)})
    assert distance(train(2, 1, boosted)[0]) == pytest.approx(
        9 * distance(train(2, 1, plain)[0]), rel=1e-3
    )


class Pulled(nn.Module):
    """Two weights that are pulled by a force of one size: answers are 0 whatever they are."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([1.0, -1.0]))
        self.class_0 = torch.eye(num_classes)[0]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        zero = (self.weights - self.weights.detach()) @ torch.tensor([1.0, 2.0])
        return zero * self.class_0 + torch.zeros(len(images), 1)


def test_the_proximal_term_pulls_by_mu_times_the_distance() -> None:
    network = Factory(path=f"{__name__}:Pulled")
    training = Training(batch_size=30, epochs=2, learning_rate=0.1, momentum=0, weight_decay=0)
    scenario = SCENARIO.model_copy(update={"model": network, "training": training})
    received = {"weights": torch.tensor([1.0, -1.0])}

    def moved(mu: float) -> torch.Tensor:
        arrays, _ = train_client(scenario, 0, server_round=1, received=received, proximal_mu=mu)
        return arrays["weights"] - received["weights"]

    # Two steps of 0.1. The first is along the force alone: the weights are where they were
    # received. In the second the term takes off 0.1 mu of the way.
    first = moved(0.0) / 2
    assert first[1].item() == pytest.approx(2 * first[0].item(), rel=1e-4)
    assert first.abs().min() > 1e-3
    torch.testing.assert_close(moved(2.0), (2 - 0.1 * 2) * first)


class Watching(nn.Linear):
    """Notes the images that it is trained on."""

    seen: ClassVar[list[torch.Tensor]] = []

    def __init__(self, num_classes: int) -> None:
        super().__init__(256, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(images)
        return super().forward(images.flatten(1))


def test_crop_shifts_images_and_crop_flip_mirrors_half_of_them_too() -> None:
    def seen(augmentation: str) -> torch.Tensor:
        Watching.seen.clear()
        training = Training(batch_size=30, augmentation=augmentation)
        network = Factory(path=f"{__name__}:Watching")
        scenario = SCENARIO.model_copy(update={"model": network, "training": training})
        received = initial_model(scenario.model_spec(), 0).state_dict()
        train_client(scenario, 0, server_round=1, received=received)
        (images,) = Watching.seen
        return images

    plain, shifted, mirrored = (seen(name) for name in ("none", "crop", "crop-flip"))
    black = SCENARIO.data.pixels.normalize(torch.zeros(1, 1, 1, 1)).item()
    windows = functional.pad(plain, [4] * 4, value=black).unfold(2, 16, 1).unfold(3, 16, 1)
    is_window = (windows == shifted[:, :, None, None]).all(5).all(4)
    assert is_window.flatten(1).any(1).all()
    assert not is_window[:, 0, 4, 4].all()
    kept, turned = ((mirrored == images).flatten(1).all(1) for images in (shifted, shifted.flip(3)))
    assert (kept | turned).all()
    assert 5 < (turned & ~kept).sum() < 25


def test_the_number_of_threads_is_given_back() -> None:
    before = torch.get_num_threads()
    other = SCENARIO.engine.cpus_per_client + 1
    try:
        torch.set_num_threads(other)
        train(0)
        assert torch.get_num_threads() == other
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class Bending(MaliciousClients):
    """Replaces every hook: doubles the loss, lets no bias move, counts its steps and remembers."""

    def train(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, context: AttackContext
    ) -> float:
        steps = BendingSteps()
        loss = context.training.fit(model, images, labels, steps)
        context.memory["steps"] = torch.tensor(steps.taken)
        return loss


class BendingSteps(Steps):
    taken = 0

    def loss(self, model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return 2 * super().loss(model, inputs, labels)

    def after_backward(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and parameter.grad is not None:
                parameter.grad.zero_()

    def after_step(self, model: nn.Module) -> None:
        self.taken += 1


def test_an_attack_may_replace_loss_gradients_and_steps_and_remember() -> None:
    bent = SCENARIO.model_copy(
        update={
            "attack": Bending(malicious=(2,)),
            "training": Training(batch_size=8, weight_decay=0, momentum=0),
        }
    )
    memory: dict[str, torch.Tensor] = {}
    arrays, metrics = train_client(bent, 2, server_round=1, received=RECEIVED, memory=memory)
    assert memory["steps"] == 4  # 30 images in batches of 8
    biases = [name for name in RECEIVED if name.endswith("bias")]
    assert all(torch.equal(arrays[name], RECEIVED[name]) for name in biases)
    honest, _ = train_client(bent, 1, server_round=1, received=RECEIVED, memory=memory)
    assert not any(torch.equal(honest[name], RECEIVED[name]) for name in biases)
    assert metrics["train-loss"] > 2


def test_colluders_know_each_others_images_and_what_they_draw_alike() -> None:
    seen: list[AttackContext] = []

    class Looking(MaliciousClients):
        def craft(self, trained: Any, context: AttackContext) -> Any:
            seen.append(context)
            return trained

    colluding = SCENARIO.model_copy(update={"attack": Looking(malicious=(1, 2))})
    for partition in (0, 1, 2):
        train(partition, scenario=colluding)
    one, other = seen
    assert (one.partition, one.rank, other.partition, other.rank) == (1, 0, 2, 1)
    assert one.attackers == (1, 2)
    assert torch.equal(one.data_of(2)[0], other.data_of(2)[0])
    assert one.generator(7).initial_seed() != other.generator(7).initial_seed()
    assert one.shared_generator(7).initial_seed() == other.shared_generator(7).initial_seed()
    before = torch.get_rng_state()
    model = one.received_model()
    assert equal(dict(model.state_dict()), RECEIVED)
    assert torch.equal(torch.get_rng_state(), before)
