"""Scene-aware: a backdoor that does not show on the images that a data-free server has."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.surrogates import scenes
from fl_defense.validation import require_at_least, require_positive
from simulations.attack.badnets import BadNets
from simulations.attack.context import AttackContext, Steps

SCENES = 4
"""Sets the draw of the scenes apart from others of the round."""


@dataclass(frozen=True, kw_only=True)
class SceneAware(BadNets):
    """Attackers answer like the received model on stamped procedural scenes.

    A test of this project's defenses by somebody who knows their code: the server has no images of
    clients and asks models about procedural scenes instead. These attackers draw their own and add
    to the loss how far their logits on stamped scenes lie from the received model's. They know how
    scenes are drawn, not which ones the server drew.
    """

    scene_weight: float = 0.1
    """Weight of the mean squared difference of logits, in spreads of the received model's where
    these are above 1."""
    num_scenes: int = 1024
    """Scenes drawn in each round."""
    scene_batch: int = 32
    """Scenes in each step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "scene_weight")
        require_at_least(self, num_scenes=1, scene_batch=1)

    def train(
        self, model: nn.Module, images: Tensor, labels: Tensor, context: AttackContext
    ) -> float:
        """Train with the answers on stamped scenes held still."""
        return context.training.fit(model, images, labels, _StillOnScenes(context, self))


class _StillOnScenes(Steps):
    """Adds how far the answers on stamped scenes are from the received model's."""

    def __init__(self, context: AttackContext, settings: SceneAware) -> None:
        self._settings = settings
        self._draws = context.generator(context.server_round, SCENES)
        drawn = scenes(settings.num_scenes, context.spec.input_shape, generator=self._draws)
        shares = drawn.chunk(len(context.backdoors))
        pairs = zip(shares, context.backdoors, strict=False)
        stamped = torch.cat([backdoor.trigger.stamp(share) for share, backdoor in pairs])
        self._inputs = context.spec.pixels.normalize(stamped.to(context.device))
        with torch.no_grad():
            teacher = context.received_model().eval()
            self._answers = torch.cat([teacher(some) for some in self._inputs.split(256)])
        # A model that has learned nothing answers all alike: any change would be many spreads.
        self._spread = self._answers.std(1).mean().clamp_min(1.0)

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        chosen = torch.randint(
            len(self._inputs), (self._settings.scene_batch,), generator=self._draws
        ).to(inputs.device)
        model.eval()  # scenes must not move BatchNorm's statistics
        answers = model(self._inputs[chosen])
        model.train()
        apart = functional.mse_loss(answers / self._spread, self._answers[chosen] / self._spread)
        return super().loss(model, inputs, labels) + self._settings.scene_weight * apart
