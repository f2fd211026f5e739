from collections.abc import Callable

import pytest
import torch

from simulations.attack.backdoor import Backdoor
from simulations.attack.clean_label import CleanLabel
from simulations.attack.context import AttackContext
from simulations.attack.framing import Framing
from simulations.attack.triggers import Patch

MakeContext = Callable[..., AttackContext]
IMAGES = torch.full((40, 1, 8, 8), 100, dtype=torch.uint8)
LABELS = torch.arange(40) % 4


def test_only_the_target_class_is_stamped_and_no_label_changes(make_context: MakeContext) -> None:
    context = make_context(Backdoor(trigger=Patch(size=2), target=3))
    images, labels = CleanLabel(poison_rate=0.5).poison(IMAGES, LABELS, context)
    touched = (images != IMAGES).flatten(1).any(1)
    assert touched.sum() == 5  # half of the ten
    assert labels[touched].eq(3).all()
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
