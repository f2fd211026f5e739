from collections.abc import Callable

import pytest
import torch

from simulations.attack.context import AttackContext
from simulations.attack.neurotoxin import Neurotoxin, honest_gradients, quiet_masks
from simulations.attack.updates import norm_of, update_of


def test_weights_are_ranked_over_all_layers_together() -> None:
    gradients = [torch.tensor([[5.0, -4.0], [3.0, -2.0]]), torch.tensor([0.1, -0.2])]
    masks = quiet_masks(gradients, 0.5)
    # Ranked by layer, one weight of the second layer and two of the first would be quiet.
    assert masks[0].tolist() == [[False, False], [False, True]]
    assert masks[1].tolist() == [True, True]
    assert all(mask.all() for mask in quiet_masks(gradients, 1.0))


def test_only_the_quiet_share_of_the_weights_is_sent_changed(
    make_context: Callable[..., AttackContext],
) -> None:
    context = make_context()
    attack, model = Neurotoxin(ratio=0.6), context.received_model()
    images, labels = attack.poison(*context.data_of(1), context)
    attack.train(model, images, labels, context)
    total, changed = 0, 0
    masks = quiet_masks(honest_gradients(context), 0.6)
    for (name, value), mask in zip(model.named_parameters(), masks, strict=True):
        moved = value != context.received[name]
        assert not (moved & ~mask).any()  # weight decay and momentum move nothing either
        total, changed = total + value.numel(), changed + int(moved.sum())
    assert total == 64 * 6 + 6 + 6 * 4 + 4
    assert 0.3 * total < changed <= round(0.6 * total)


def test_the_honest_gradient_is_that_of_the_sum_over_clean_images(
    make_context: Callable[..., AttackContext],
) -> None:
    context = make_context()
    model = context.received_model()
    images, labels = context.data_of(1)
    logits = model(context.spec.pixels.normalize(images.float() / 255))
    chances = logits.softmax(1)
    chances[torch.arange(len(labels)), labels] -= 1
    assert torch.allclose(honest_gradients(context)[-1], chances.sum(0), atol=1e-4)


def test_the_update_is_cut_to_a_norm_before_it_is_boosted(
    make_context: Callable[..., AttackContext],
) -> None:
    received = {"w": torch.zeros(2)}
    context = make_context(received=received, weights=frozenset({"w"}))
    trained = {"w": torch.tensor([3.0, 4.0])}
    sent = Neurotoxin(largest_norm=1, boost=2).craft(trained, context)
    assert norm_of(update_of(sent, received, {"w"})) == pytest.approx(2)
    short = Neurotoxin(largest_norm=9).craft(trained, context)
    assert short["w"].tolist() == [3.0, 4.0]


def test_meaningless_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="ratio"):
        Neurotoxin(ratio=0)
    with pytest.raises(ValueError, match="largest_norm"):
        Neurotoxin(largest_norm=0)
