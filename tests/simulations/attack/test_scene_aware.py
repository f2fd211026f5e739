from collections.abc import Callable

import pytest
import torch

from fl_defense.surrogates import scenes
from simulations.attack.context import AttackContext
from simulations.attack.scene_aware import SceneAware

MakeContext = Callable[..., AttackContext]


def shift_on_scenes(weight: float, make_context: MakeContext) -> float:
    """Return how far the answers on stamped scenes, others than the attacker's, moved."""
    context = make_context()
    attack, model = SceneAware(scene_weight=weight, num_scenes=64), context.received_model()
    images, labels = attack.poison(*context.data_of(1), context)
    attack.train(model, images, labels, context)
    drawn = scenes(200, (1, 8, 8), generator=torch.Generator().manual_seed(9))
    inputs = context.spec.pixels.normalize(context.backdoors[0].trigger.stamp(drawn))
    with torch.no_grad():
        return float((model.eval()(inputs) - context.received_model()(inputs)).square().mean())


def test_answers_on_stamped_scenes_stay_those_of_the_received_model(
    make_context: MakeContext,
) -> None:
    assert shift_on_scenes(2.0, make_context) < 0.5 * shift_on_scenes(1e-6, make_context)


def test_at_the_received_model_the_penalty_is_nothing(make_context: MakeContext) -> None:
    context = make_context()
    images, labels = context.data_of(1)
    few = (images[:8], labels[:8])  # one step: its loss is that of the received model
    plain = context.training.fit(context.received_model(), *few)
    aware = SceneAware(scene_weight=9.0, num_scenes=64).train(
        context.received_model(), *few, make_context()
    )
    assert aware == pytest.approx(plain)


def test_meaningless_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="scene_weight"):
        SceneAware(scene_weight=0)
    with pytest.raises(ValueError, match="num_scenes"):
        SceneAware(num_scenes=0)
