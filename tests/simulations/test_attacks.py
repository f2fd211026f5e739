from typing import Any

import pytest
import torch

from simulations.attacks import Backdoor, BadNets, NoAttack
from simulations.triggers import Patch

IMAGES = torch.full((40, 1, 8, 8), 100, dtype=torch.uint8)
LABELS = torch.arange(40) % 4


def poison(attack: BadNets, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return attack.poison(IMAGES, LABELS, Backdoor(target=3), generator)


def test_badnets_stamps_and_relabels_its_share() -> None:
    images, labels = poison(BadNets(poison_rate=0.25))
    touched = (images != IMAGES).flatten(1).any(dim=1)
    assert touched.sum() == 10
    assert labels[touched].eq(3).all()
    assert torch.equal(labels[~touched], LABELS[~touched])
    assert images.dtype == torch.uint8
    assert images[touched][0, 0, 4:7, 4:7].tolist() == [[255, 0, 255], [0, 255, 0], [255, 0, 255]]
    assert IMAGES.eq(100).all()


def test_the_poisoned_images_follow_the_generator() -> None:
    assert torch.equal(poison(BadNets())[0], poison(BadNets())[0])
    assert not torch.equal(poison(BadNets())[0], poison(BadNets(), seed=1)[0])


def test_malicious_clients_come_from_the_seed_or_a_list() -> None:
    drawn = BadNets(malicious=0.3).malicious_clients(10, seed=5)
    assert len(drawn) == 3
    assert drawn == BadNets(malicious=0.3).malicious_clients(10, seed=5)
    assert len({BadNets(malicious=0.3).malicious_clients(10, seed) for seed in range(20)}) > 10
    assert BadNets(malicious=(7, 2)).malicious_clients(10, seed=5) == (2, 7)
    assert NoAttack().malicious_clients(10, seed=5) == ()


@pytest.mark.parametrize(
    ("malicious", "message"),
    [
        (0.01, "makes nobody malicious"),
        (0.99, "makes everybody malicious"),
        ((), "makes nobody malicious"),
        ((0, 1, 2, 3), "makes everybody malicious"),
        ((4,), r"ids must be in 0\.\.3"),
    ],
)
def test_everybody_or_nobody_malicious_is_refused(malicious: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BadNets(malicious=malicious).malicious_clients(4, seed=0)


def test_rounds_of_the_attack() -> None:
    attack = BadNets(first_round=3, last_round=5)
    assert [number for number in range(1, 9) if attack.is_active(number)] == [3, 4, 5]
    assert BadNets(first_round=2).is_active(1000)
    assert not NoAttack().is_active(1)


def test_boost_scales_the_update_of_weights_alone() -> None:
    received = {"w": torch.ones(2), "n": torch.tensor(4)}
    trained = {"w": torch.tensor([1.5, 0.0]), "n": torch.tensor(9)}
    sent = BadNets(boost=4).craft(received, trained)
    assert sent["w"].tolist() == [3.0, -3.0]
    assert sent["n"] == 9
    assert BadNets().craft(received, trained) is trained
    assert NoAttack().craft(received, trained) is trained


def test_backdoor_says_what_triggered_images_should_be_called() -> None:
    images, labels = Backdoor(trigger=Patch(size=1), target=2).apply(
        torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 2])
    )
    assert images[:, 0, 6, 6].eq(1).all()
    assert labels.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "fields",
    [
        {"malicious": 0.0},
        {"malicious": 1.5},
        {"poison_rate": 0.0},
        {"boost": 0.0},
        {"first_round": 0},
        {"last_round": 2, "first_round": 3},
    ],
)
def test_meaningless_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        BadNets(**fields)
