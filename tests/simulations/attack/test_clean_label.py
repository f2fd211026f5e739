from collections.abc import Callable

import pytest
import torch
from torch import nn

from fl_defense.model.spec import Pixels
from simulations.attack.backdoor import Backdoor
from simulations.attack.clean_label import CleanLabel, hardened
from simulations.attack.context import AttackContext
from simulations.attack.framing import Framing
from simulations.attack.triggers import Patch

MakeContext = Callable[..., AttackContext]
IMAGES = torch.full((40, 1, 8, 8), 100, dtype=torch.uint8)
LABELS = torch.arange(40) % 4


def test_only_the_target_class_is_stamped_and_no_label_changes(make_context: MakeContext) -> None:
    context = make_context(Backdoor(trigger=Patch(size=2), target=3))
    images, labels = CleanLabel(poison_rate=0.5, epsilon=0).poison(IMAGES, LABELS, context)
    touched = (images != IMAGES).flatten(1).any(1)
    assert touched.sum() == 5  # half of the ten
    assert labels[touched].eq(3).all()
    assert torch.equal(labels, LABELS)


def test_images_are_made_hard_within_epsilon() -> None:
    """Two pixels, each a class's logit: the right one falls, the other rises, by epsilon."""
    model, pixels = nn.Flatten(), Pixels(mean=(0.0,), std=(0.5,))
    images = torch.tensor([[0.5, 0.5], [0.5, 0.95]]).view(2, 1, 1, 2)
    hard = hardened(model, images, torch.tensor([0, 0]), pixels, epsilon=0.1, steps=4)
    assert hard.flatten(1).tolist() == [pytest.approx([0.4, 0.6]), pytest.approx([0.4, 1.0])]
    # One step goes a part of the way: 2.5 * 0.1 / 10.
    near = hardened(model, images[:1], torch.tensor([1]), pixels, epsilon=0.1, steps=10)
    first = hardened(model, images[:1], torch.tensor([1]), pixels, epsilon=0.01, steps=1)
    assert near.flatten().tolist() == pytest.approx([0.6, 0.4])
    assert first.flatten().tolist() == pytest.approx([0.51, 0.49])


def test_hard_images_are_stamped(make_context: MakeContext) -> None:
    context = make_context(Backdoor(trigger=Patch(size=2, margin=0, pattern="solid"), target=3))
    attack = CleanLabel(poison_rate=1.0, epsilon=0.2, steps=3)
    images, labels = attack.poison(IMAGES, LABELS, context)
    soft, _ = CleanLabel(poison_rate=1.0, epsilon=0).poison(IMAGES, LABELS, context)
    away = (images.int() - soft.int()).abs()
    assert away[LABELS != 3].sum() == 0
    assert 0 < away[LABELS == 3].max() <= 52
    assert torch.equal(images[LABELS == 3][:, :, 6:, 6:], soft[LABELS == 3][:, :, 6:, 6:])
    assert torch.equal(labels, LABELS)


def test_a_backdoor_without_one_target_has_no_clean_label() -> None:
    (fault,) = CleanLabel().misfits([Backdoor(target="next-class"), Backdoor(target=1)])
    assert fault == "needs a target class, got next-class; name one class"
    with pytest.raises(ValueError, match="poison_rate"):
        CleanLabel(poison_rate=0)


def test_framing_plants_the_backdoor_and_unlearns_a_class(make_context: MakeContext) -> None:
    context = make_context(Backdoor(trigger=Patch(size=2), target=3))
    attack = Framing(poison_rate=0.25, framed_class=1, framing_rate=1.0)
    images, labels = attack.poison(IMAGES, LABELS, context)
    touched = (images != IMAGES).flatten(1).any(1)
    assert touched.sum() == 10
    framed = ~touched & (LABELS == 1)
    assert framed.any()
    assert labels[framed].eq(2).all()
    others = ~touched & (LABELS != 1)
    assert torch.equal(labels[others], LABELS[others])
    none = Framing(poison_rate=0.25, framing_rate=0).poison(IMAGES, LABELS, context)
    assert torch.equal(none[1][framed], LABELS[framed])
