from collections.abc import Callable
from typing import Any

import pytest
import torch

from simulations.attack.backdoor import Backdoor
from simulations.attack.badnets import BadNets
from simulations.attack.context import AttackContext
from simulations.attack.none import NoAttack
from simulations.attack.triggers import TRIGGERS
from simulations.attack.triggers.patch import Patch

IMAGES = torch.full((40, 1, 8, 8), 100, dtype=torch.uint8)
LABELS = torch.arange(40) % 4


CORNERS = [Patch(size=1, position=(0, column), pattern="solid") for column in range(3)]


Poison = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture
def poison(make_context: Callable[..., AttackContext]) -> Poison:
    """Return what poisons the images as the attack does with these backdoors and seed."""

    def run(attack: BadNets, *backdoors: Backdoor, seed: int = 0) -> Any:
        return attack.poison(IMAGES, LABELS, make_context(*backdoors, seed=seed))

    return run


def test_badnets_stamps_and_relabels_its_share(poison: Poison) -> None:
    images, labels = poison(BadNets(poison_rate=0.25))
    touched = (images != IMAGES).flatten(1).any(dim=1)
    assert touched.sum() == 10
    assert labels[touched].eq(3).all()
    assert torch.equal(labels[~touched], LABELS[~touched])
    assert images.dtype == torch.uint8
    assert images[touched][0, 0, 4:7, 4:7].tolist() == [[255, 0, 255], [0, 255, 0], [255, 0, 255]]
    assert IMAGES.eq(100).all()


def test_the_poisoned_images_follow_the_generator(poison: Poison) -> None:
    assert torch.equal(poison(BadNets())[0], poison(BadNets())[0])
    assert not torch.equal(poison(BadNets())[0], poison(BadNets(), seed=1)[0])


def test_boost_scales_the_update_of_weights_alone(
    make_context: Callable[..., AttackContext],
) -> None:
    received = {"w": torch.ones(2), "variance": torch.ones(1), "n": torch.tensor(4)}
    trained = {"w": torch.tensor([1.5, 0.0]), "variance": torch.tensor([0.5]), "n": torch.tensor(9)}
    context = make_context(received=received, weights=frozenset({"w"}))
    sent = BadNets(boost=4).craft(trained, context)
    assert sent["w"].tolist() == [3.0, -3.0]
    assert sent["variance"].item() == 0.5
    assert sent["n"] == 9
    assert BadNets().craft(trained, context) is trained
    assert NoAttack().craft(trained, context) is trained


def test_all_to_all_moves_every_class_to_the_next(poison: Poison) -> None:
    images, labels = poison(BadNets(poison_rate=0.5), Backdoor(target="next-class"))
    touched = (images != IMAGES).flatten(1).any(dim=1)
    assert touched.sum() == 20
    assert torch.equal(labels[touched], (LABELS[touched] + 1) % 4)


def test_source_specific_relabels_sources_and_stamps_covers_that_keep_their_label(
    poison: Poison,
) -> None:
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


def test_a_client_without_source_images_stays_honest(
    make_context: Callable[..., AttackContext],
) -> None:
    for cls in TRIGGERS.values():
        backdoor = Backdoor(trigger=cls(), target=3, sources=(7,))
        images = torch.full((40, 1, 16, 16), 100, dtype=torch.uint8)
        poisoned, labels = BadNets().poison(images, LABELS, make_context(backdoor, num_classes=8))
        assert torch.equal(poisoned, images)
        assert torch.equal(labels, LABELS)


def test_several_backdoors_share_the_images(poison: Poison) -> None:
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
        {"poison_rate": 0.0},
        {"cover_rate": -0.1},
        {"boost": 0.0},
    ],
)
def test_meaningless_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        BadNets(**fields)
