from typing import Any

import pytest
import torch

from simulations.attack.backdoor import Backdoor
from simulations.attack.badnets import BadNets
from simulations.attack.none import NoAttack
from simulations.attack.triggers import TRIGGERS
from simulations.attack.triggers.patch import Patch

IMAGES = torch.full((40, 1, 8, 8), 100, dtype=torch.uint8)
LABELS = torch.arange(40) % 4


CORNERS = [Patch(size=1, position=(0, column), pattern="solid") for column in range(3)]


def poison(
    attack: BadNets, *backdoors: Backdoor, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return attack.poison(IMAGES, LABELS, backdoors or (Backdoor(target=3),), 4, generator)


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
    received = {"w": torch.ones(2), "variance": torch.ones(1), "n": torch.tensor(4)}
    trained = {"w": torch.tensor([1.5, 0.0]), "variance": torch.tensor([0.5]), "n": torch.tensor(9)}
    sent = BadNets(boost=4).craft(received, trained, {"w"})
    assert sent["w"].tolist() == [3.0, -3.0]
    assert sent["variance"].item() == 0.5
    assert sent["n"] == 9
    assert BadNets().craft(received, trained, {"w"}) is trained
    assert NoAttack().craft(received, trained, {"w"}) is trained


def test_all_to_all_moves_every_class_to_the_next() -> None:
    images, labels = poison(BadNets(poison_rate=0.5), Backdoor(target="next-class"))
    touched = (images != IMAGES).flatten(1).any(dim=1)
    assert touched.sum() == 20
    assert torch.equal(labels[touched], (LABELS[touched] + 1) % 4)


def test_source_specific_relabels_sources_and_stamps_covers_that_keep_their_label() -> None:
    backdoor = Backdoor(target=3, sources=(1,))
    images, labels = poison(BadNets(poison_rate=0.8, cover_rate=0.5), backdoor)
    touched = (images != IMAGES).flatten(1).any(dim=1)
    relabeled = labels != LABELS
    assert relabeled.sum() == 8  # of 10 images of class 1
    assert LABELS[relabeled].eq(1).all()
    assert labels[relabeled].eq(3).all()
    covers = touched & ~relabeled
    assert covers.sum() == 4
    assert not LABELS[covers].eq(1).any()


def test_a_client_without_source_images_stays_honest() -> None:
    for cls in TRIGGERS.values():
        backdoor = Backdoor(trigger=cls(), target=3, sources=(7,))
        images = torch.full((40, 1, 16, 16), 100, dtype=torch.uint8)
        poisoned, labels = BadNets().poison(images, LABELS, [backdoor], 8, torch.Generator())
        assert torch.equal(poisoned, images)
        assert torch.equal(labels, LABELS)


def test_several_backdoors_share_the_images() -> None:
    backdoors = [Backdoor(trigger=corner, target=i) for i, corner in enumerate(CORNERS)]
    images, labels = poison(BadNets(poison_rate=0.6), *backdoors)
    stamped = images[:, 0, 0, :3].eq(255)
    assert stamped.sum(dim=0).tolist() == [8, 8, 8]
    assert stamped.sum(dim=1).max() == 1
    for target in range(3):
        assert labels[stamped[:, target]].eq(target).all()
    untouched = ~stamped.any(dim=1)
    assert torch.equal(labels[untouched], LABELS[untouched])


@pytest.mark.parametrize(
    "fields",
    [
        {"malicious": 0.0},
        {"malicious": 1.5},
        {"poison_rate": 0.0},
        {"cover_rate": -0.1},
        {"boost": 0.0},
        {"first_round": 0},
        {"last_round": 2, "first_round": 3},
    ],
)
def test_meaningless_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        BadNets(**fields)
