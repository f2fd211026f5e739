import pytest
import torch
from torch import nn
from torch.nn import functional

from simulations.attack.badnets import BadNets
from simulations.data import Digits
from simulations.federation.local_training import train_client
from simulations.federation.server import initial_model
from simulations.models.small_cnn import SmallCNN
from simulations.scenario.engines import InProcessEngine
from simulations.scenario.imports import Factory
from simulations.scenario.scenario import Clients, Scenario, Training

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


def test_the_proximal_term_holds_the_client_back() -> None:
    assert distance(train(0, mu=10.0)[0]) < 0.5 * distance(train(0)[0])


@pytest.mark.parametrize("augmentation", ["crop", "crop-flip"])
def test_augmentation_changes_the_images_but_not_their_number(augmentation: str) -> None:
    training = SCENARIO.training.model_copy(update={"augmentation": augmentation})
    changed = SCENARIO.model_copy(update={"training": training})
    arrays, metrics = train(0, scenario=changed)
    assert metrics["num-examples"] == 30
    assert not equal(arrays, train(0)[0])


def test_the_number_of_threads_is_given_back() -> None:
    before = torch.get_num_threads()
    other = SCENARIO.engine.cpus_per_client + 1
    try:
        torch.set_num_threads(other)
        train(0)
        assert torch.get_num_threads() == other
    finally:
        torch.set_num_threads(before)
