"""A3FL: the trigger's pixels are learned, against a model that tries to unlearn them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.validation import require_at_least, require_positive, require_share
from simulations.attack.backdoor import Backdoor
from simulations.attack.context import AttackContext
from simulations.attack.learned_trigger import LearnedTrigger
from simulations.attack.triggers.base import Trigger
from simulations.attack.triggers.painted import Painted
from simulations.attack.triggers.patch import Patch

TRIGGER, OPPONENT = 5, 6
"""Set the draws of the trigger's and of the opponent's training apart from others."""


@dataclass(frozen=True, kw_only=True)
class A3FL(LearnedTrigger):
    """Attackers learn the pixels of the trigger before they plant it (Zhang et al., NeurIPS 2023).

    The pixels are moved so that the received model, and an opponent that was trained to give
    stamped images their true class, say the target: what survives unlearning is chosen. The
    backdoor's patch says where the pixels lie; in the first attacked round they start gray, later
    from those of the round before. The attackers of a round use the first one's images, so that all
    who attack together plant the same. What is measured is the learned trigger: the server asks an
    attacker for it after each attacked round.
    """

    begins_with: ClassVar[type[Trigger]] = Patch
    what_is_learned: ClassVar[str] = "the pixels of a patch"
    trigger_steps: int = 100
    """Steps of the pixels in each attacked round."""
    trigger_step_size: float = 0.02
    """Change of a pixel per step, in brightness of [0, 1]: the sign of the gradient counts."""
    trigger_batch: int = 64
    """Images in each of these steps."""
    opponent_every: int = 10
    """Steps between two opponents, which unlearn the trigger as it is then."""
    opponent_epochs: int = 2
    """Passes over the stamped images in which an opponent is trained."""
    opponent_rate: float = 0.01
    """Learning rate of that training."""
    opponent_weight: float = 0.01
    """Weight of the opponent's answer beside the received model's (the paper's lambda); times the
    cosine of the two models' gradients, as an unlikely opponent should count less."""
    pixel_change: float = 1.0
    """Farthest that a pixel may go from gray, in (0, 1]; 0.5 or more is anywhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(
            self, trigger_steps=1, trigger_batch=1, opponent_every=1, opponent_epochs=1,
            opponent_weight=0,
        )  # fmt: skip
        require_positive(self, "trigger_step_size", "opponent_rate", "pixel_change")
        require_share(self, "pixel_change")

    def learn(self, index: int, backdoor: Backdoor, context: AttackContext) -> None:
        """Move the pixels for another round."""
        context.memory[_key(index)] = self._learn(index, backdoor, context)

    def learned(
        self, index: int, backdoor: Backdoor, memory: Mapping[str, Tensor]
    ) -> Backdoor | None:
        """Return the backdoor with the remembered pixels."""
        return _painted(backdoor, memory[_key(index)]) if _key(index) in memory else None

    def opponent(
        self, images: Tensor, labels: Tensor, wanted: Tensor, step: int, context: AttackContext
    ) -> nn.Module:
        """Return a model that unlearned the trigger.

        Args:
            images: stamped, uint8 (N, C, H, W).
            labels: their true classes (N,).
            wanted: the classes that the backdoor wants (N,).
            step: of the trigger's training.
            context: what the attacker knows.
        """
        del wanted
        model = context.received_model()
        context.training.fit(
            model,
            images,
            labels,
            draws=context.shared_generator(context.server_round, OPPONENT, step),
            epochs=self.opponent_epochs,
            learning_rate=self.opponent_rate,
        )
        return model

    def opponents_share(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
        """Return how much an opponent counts, from both models' gradients of their losses."""
        one, other = (torch.cat([each.reshape(-1) for each in some]) for some in (ours, theirs))
        return float(functional.cosine_similarity(one, other, dim=0))

    def _learn(self, index: int, backdoor: Backdoor, context: AttackContext) -> Tensor:
        """Return the trigger's pixels (C, h, w) after this round's steps."""
        images, labels = context.data_of(context.attackers[0])
        pictures = images.to(context.device).float() / 255
        wanted = backdoor.wanted(labels, context.num_classes)
        moved = (wanted != labels).nonzero().flatten()
        pattern = self._start(index, backdoor, context)
        if len(moved) == 0:
            return pattern.cpu()
        draws = context.shared_generator(context.server_round, TRIGGER, index)
        ours = context.received_model().eval()
        theirs: nn.Module | None = None
        for step in range(self.trigger_steps):
            if theirs is None or step % self.opponent_every == 0:
                with torch.no_grad():
                    stamped = _painted(backdoor, pattern).trigger.stamp(pictures)
                rounded = (stamped * 255).round().to(torch.uint8)
                theirs = self.opponent(rounded, labels, wanted, step, context).eval()
            some = moved[torch.randint(len(moved), (self.trigger_batch,), generator=draws)]
            slope = self._slope(
                pattern, backdoor, pictures[some], wanted[some].to(context.device),
                (ours, theirs), context,
            )  # fmt: skip
            pattern = pattern - self.trigger_step_size * slope.sign()
            near = pattern.clamp(0.5 - self.pixel_change, 0.5 + self.pixel_change)
            pattern = near.clamp(0, 1)
        return pattern.cpu()

    def _slope(
        self,
        pattern: Tensor,
        backdoor: Backdoor,
        pictures: Tensor,
        wanted: Tensor,
        models: tuple[nn.Module, nn.Module],
        context: AttackContext,
    ) -> Tensor:
        """Return the gradient at the pattern of both models' losses together."""
        pattern = pattern.detach().requires_grad_()
        stamped = _painted(backdoor, pattern).trigger.stamp(pictures)
        inputs = context.spec.pixels.normalize(stamped)
        losses = [functional.cross_entropy(model(inputs), wanted) for model in models]
        gradients = [
            torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            for loss, model in zip(losses, models, strict=True)
        ]
        share = self.opponent_weight * self.opponents_share(*gradients)
        (slope,) = torch.autograd.grad(losses[0] + share * losses[1], pattern)
        return slope

    def _start(self, index: int, backdoor: Backdoor, context: AttackContext) -> Tensor:
        if _key(index) in context.memory:
            return context.memory[_key(index)].to(context.device)
        assert isinstance(backdoor.trigger, Patch)
        size = backdoor.trigger.size
        return torch.full((context.spec.input_shape[0], size, size), 0.5, device=context.device)


def _key(index: int) -> str:
    """Name of a backdoor's pixels in an attacker's memory."""
    return f"pattern-{index}"


def _painted(backdoor: Backdoor, pixels: Tensor) -> Backdoor:
    """Return the backdoor whose patch has these pixels."""
    assert isinstance(backdoor.trigger, Patch)
    return replace(backdoor, trigger=Painted(patch=backdoor.trigger, pixels=pixels))
