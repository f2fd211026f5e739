from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from simulations.attack.backdoor import Backdoor
from simulations.attack.context import AttackContext
from simulations.attack.iba import IBA
from simulations.attack.triggers import Generated, Patch
from simulations.attack.triggers.generated import add_noise
from simulations.attack.triggers.trained_generator import TrainedGenerator

MakeContext = Callable[..., AttackContext]
BACKDOOR = Backdoor(trigger=Generated(epsilon=0.3, width=4), target=3)
QUICK: dict[str, Any] = {"generator_epochs": 4, "generator_batch": 16, "generator_rate": 0.01}


def poison(attack: IBA, context: AttackContext) -> Any:
    return attack.poison(*context.data_of(context.partition), context)


def target_loss(context: AttackContext, backdoor: Backdoor) -> float:
    images, labels = context.data_of(7)  # nobody's who attacks
    stamped = backdoor.trigger.stamp(images.float() / 255)[labels != 3]
    with torch.no_grad():
        logits = context.received_model()(context.spec.pixels.normalize(stamped))
    return float(-logits.log_softmax(1)[:, 3].mean())


def test_noise_is_bounded_and_images_stay_in_range() -> None:
    images = torch.tensor([0.2, 0.8]).reshape(1, 1, 1, 2)
    # The network answers the image: 0.2 + 0.5 * 0.2, and 0.8 + 0.5 * 0.8 is cut to 1.
    assert add_noise(nn.Identity(), images, 0.5).flatten().tolist() == pytest.approx([0.3, 1.0])
    draws = torch.Generator().manual_seed(0)
    odd = torch.rand(300, 3, 7, 9, generator=draws)  # more than one pass, no even side
    noise = Generated(epsilon=0.1, width=2).stamp(odd) - odd
    assert 0 < float(noise.abs().max()) <= 0.1 + 1e-6
    assert not torch.allclose(noise[0], noise[1], atol=1e-4)
    assert Generated().stamp(odd[:0]).shape == (0, 3, 7, 9)


def test_epsilon_fades_to_its_least() -> None:
    attack = IBA(epsilon_fade=0.1, least_epsilon=0.15)
    assert [attack.epsilon(0.3, number) for number in (1, 2, 3, 9)] == pytest.approx(
        [0.3, 0.2, 0.15, 0.15]
    )
    assert [attack.epsilon(0.1, number) for number in (1, 2)] == pytest.approx([0.1, 0.1])


def test_the_generator_turns_the_received_model_to_the_target(make_context: MakeContext) -> None:
    context = make_context(BACKDOOR)
    before = {name: value.clone() for name, value in context.received.items()}
    images, labels = poison(IBA(poison_rate=0.5, **{**QUICK, "generator_epochs": 12}), context)
    assert all(torch.equal(value, before[name]) for name, value in context.received.items())
    (learned,) = IBA(**QUICK).measured([BACKDOOR], context.memory)
    assert target_loss(context, learned) < target_loss(context, BACKDOOR) - 0.1
    clean, true = context.data_of(1)
    touched = (images != clean).flatten(1).any(1)
    assert labels[touched].eq(3).all()
    assert torch.equal(labels[~touched], true[~touched])
    stamped = (learned.trigger.stamp(clean[touched].float() / 255) * 255).round()
    assert torch.equal(images[touched], stamped.to(torch.uint8))
    apart = (images[touched].int() - clean[touched].int()).abs()
    assert apart.max() <= round(0.3 * 255)
    assert IBA().measured([BACKDOOR], {}) == (BACKDOOR,)


def test_who_attacks_together_plants_the_same_and_goes_on_from_the_last_round(
    make_context: MakeContext,
) -> None:
    attack = IBA(epsilon_fade=0.1, **QUICK)
    one, other = (make_context(BACKDOOR, partition=each) for each in (1, 3))
    poison(attack, one)
    poison(attack, other)
    first = one.memory["generator-0"]
    assert torch.equal(first, other.memory["generator-0"])
    (learned,) = attack.measured([BACKDOOR], one.memory)
    assert isinstance(learned.trigger, TrainedGenerator)
    assert learned.trigger.epsilon == pytest.approx(0.3)
    poison(IBA(epsilon_fade=0.1, **{**QUICK, "generator_rate": 1e-6}), one)
    assert float((one.memory["generator-0"] - first).abs().max()) < 1e-4  # not drawn anew
    (second,) = attack.measured([BACKDOOR], one.memory)
    assert isinstance(second.trigger, TrainedGenerator)
    assert second.trigger.epsilon == pytest.approx(0.2)


def test_only_generated_triggers_are_learned(make_context: MakeContext) -> None:
    (fault,) = IBA().misfits([BACKDOOR, Backdoor(trigger=Patch(), target=3)])
    assert fault == "learns a generator of triggers, got patch; choose the trigger generated"
    learned = TrainedGenerator(generated=Generated(), weights=torch.zeros(3), epsilon=0.1)
    with pytest.raises(ValueError, match="weights must be"):
        learned.check((1, 8, 8))


def test_an_attacker_without_an_image_to_move_plants_nothing(make_context: MakeContext) -> None:
    images, _ = make_context().data_of(1)
    target = torch.full((len(images),), 3)
    context = make_context(BACKDOOR, data_of=lambda _: (images, target))
    IBA(**QUICK).poison(images, target, context)
    drawn = BACKDOOR.trigger
    assert isinstance(drawn, Generated)
    kept = nn.utils.parameters_to_vector(drawn.network(1).parameters())
    assert torch.equal(context.memory["generator-0"], kept)


@pytest.mark.parametrize(
    "fields",
    [{"generator_epochs": 0}, {"generator_rate": 0.0}, {"epsilon_fade": -0.1}],
)
def test_meaningless_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        IBA(**fields)
    with pytest.raises(ValueError, match="epsilon"):
        Generated(epsilon=1.5)
