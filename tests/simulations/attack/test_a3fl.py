from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fl_defense.sanitizers import NoDefense
from simulations.attack.a3fl import A3FL
from simulations.attack.backdoor import Backdoor
from simulations.attack.context import AttackContext
from simulations.attack.repair_aware import RepairAware
from simulations.attack.triggers import Bars, Patch
from simulations.attack.triggers.painted import Painted

MakeContext = Callable[..., AttackContext]
BACKDOOR = Backdoor(trigger=Patch(size=3, position=(2, 2)), target=3)
QUICK: dict[str, Any] = {"trigger_steps": 12, "trigger_batch": 16, "opponent_every": 4}


def poison(attack: A3FL, context: AttackContext) -> Any:
    return attack.poison(*context.data_of(context.partition), context)


def pixels(attack: A3FL, context: AttackContext) -> torch.Tensor:
    poison(attack, context)
    return context.memory["pattern-0"]


def success(context: AttackContext, backdoor: Backdoor) -> float:
    images, labels = context.data_of(7)
    stamped = backdoor.trigger.stamp(images.float() / 255)[labels != 3]
    with torch.no_grad():
        logits = context.received_model()(context.spec.pixels.normalize(stamped))
    return float(logits.softmax(1)[:, 3].mean())


def test_the_pixels_raise_the_target_and_are_what_is_planted_and_measured(
    make_context: MakeContext,
) -> None:
    context = make_context(BACKDOOR)
    attack = A3FL(poison_rate=0.5, **QUICK)
    images, _ = poison(attack, context)
    learned = context.memory["pattern-0"]
    assert learned.shape == (1, 3, 3)
    assert 0 <= learned.min() <= learned.max() <= 1
    clean, _ = context.data_of(1)
    touched = (images != clean).flatten(1).any(1)
    stamped = images[touched][:, :, 2:5, 2:5]
    assert torch.equal(stamped, (learned * 255).round().to(torch.uint8).expand_as(stamped))
    (measured,) = attack.measured([BACKDOOR], context.memory)
    gray = Painted(patch=Patch(size=3, position=(2, 2)), pixels=torch.full((1, 3, 3), 0.5))
    assert success(context, measured) > success(context, Backdoor(trigger=gray, target=3)) + 0.01
    assert attack.measured([BACKDOOR], {}) == (BACKDOOR,)


def test_who_attacks_together_learns_the_same_pixels_and_goes_on_from_the_last(
    make_context: MakeContext,
) -> None:
    one = pixels(A3FL(**QUICK), make_context(BACKDOOR, partition=1))
    assert torch.equal(one, pixels(A3FL(**QUICK), make_context(BACKDOOR, partition=3)))
    step = {**QUICK, "trigger_steps": 1, "trigger_step_size": 0.01}
    again = pixels(A3FL(**step), make_context(BACKDOOR, memory={"pattern-0": one}))
    assert float((again - one).abs().max()) <= 0.01 + 1e-6
    near = pixels(A3FL(pixel_change=0.1, **QUICK), make_context(BACKDOOR))
    assert float((near - 0.5).abs().max()) <= 0.1 + 1e-6


def test_opponents_are_made_anew_and_know_the_true_classes(make_context: MakeContext) -> None:
    seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    class Watched(A3FL):
        def opponent(self, *arguments: Any) -> nn.Module:
            images, labels, _, step, _ = arguments
            seen.append((step, images, labels))
            return super().opponent(*arguments)

    context = make_context(BACKDOOR)
    pixels(Watched(**QUICK), context)
    assert [step for step, _, _ in seen] == [0, 4, 8]
    assert not torch.equal(seen[0][1], seen[1][1])  # stamped with the pixels of then
    assert all(torch.equal(labels, context.data_of(1)[1]) for _, _, labels in seen)


def test_an_opponent_counts_by_the_cosine_of_the_gradients() -> None:
    one, other = (
        [torch.tensor([3.0]), torch.tensor([[4.0]])],
        [torch.tensor([4.0]), torch.tensor([[3.0]])],
    )
    assert A3FL().opponents_share(one, other) == pytest.approx(24 / 25)
    assert RepairAware().opponents_share(one, other) == 1


def test_the_repair_aware_opponent_is_a_repaired_backdoored_model(
    make_context: MakeContext,
) -> None:
    context = make_context(BACKDOOR)
    images, labels = context.data_of(1)
    wanted = torch.full_like(labels, 3)
    attack = RepairAware(sanitizer=NoDefense(), opponent_epochs=30, opponent_rate=0.05)
    model = attack.opponent(images, labels, wanted, 0, context)
    logits = model(context.spec.pixels.normalize(images.float() / 255))
    assert (logits.argmax(1) == 3).float().mean() > 0.9  # nothing repaired it


def test_only_patches_have_pixels_to_learn() -> None:
    (fault,) = A3FL().misfits([BACKDOOR, Backdoor(trigger=Bars(width=3), target=3)])
    assert fault == "learns the pixels of a patch, got bars; choose the trigger patch"
    with pytest.raises(ValueError, match="pixels must be"):
        Painted(patch=Patch(size=3), pixels=torch.zeros(1, 2, 2)).check((1, 8, 8))


@pytest.mark.parametrize(
    "fields",
    [{"trigger_steps": 0}, {"opponent_every": 0}, {"opponent_weight": -1.0}, {"pixel_change": 2.0}],
)
def test_meaningless_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        A3FL(**fields)
