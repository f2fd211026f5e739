"""Clean-label poisoning: stamped images that keep their own, right label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.model.spec import Pixels
from fl_defense.model.training import frozen_copy
from fl_defense.validation import require_at_least, require_positive
from simulations.attack.backdoor import Backdoor
from simulations.attack.context import AttackContext
from simulations.attack.data_poisoning import draw_indices
from simulations.attack.malicious_clients import MaliciousClients
from simulations.attack.updates import Arrays, scaled


@dataclass(frozen=True, kw_only=True)
class CleanLabel(MaliciousClients):
    """Attackers stamp images of the target class and relabel none (SIG: Barni et al., ICIP 2019).

    No label is wrong, so that nobody who looks at the data finds fault with it. The images are made
    hard first: changed within `epsilon` so that the received model no longer knows them, and the
    trigger is what is left to learn them by (label-consistent attacks: Turner et al., 2019,
    arXiv 1912.02771). Works best with triggers over the whole image.
    """

    poison_rate: float = 0.8
    """Share of a malicious client's images of the target class that is stamped, in (0, 1]."""
    epsilon: float = 0.3
    """Largest change of a pixel in [0, 1] by which images are made hard before they are stamped; 0:
    they stay as they are, as in SIG."""
    steps: int = 10
    """Steps of the projected gradient ascent that makes them hard."""
    boost: float = 1.0
    """Factor on the malicious update's difference from the received model; 1 sends it as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.poison_rate <= 1:
            raise ValueError(f"poison_rate must be in (0, 1], got {self.poison_rate}")
        require_positive(self, "boost")
        require_at_least(self, epsilon=0, steps=1)

    def misfits(self, backdoors: Sequence[Backdoor]) -> Iterator[str]:
        """Yield a line for each backdoor without a single target class."""
        for backdoor in backdoors:
            if not isinstance(backdoor.target, int):
                yield f"needs a target class, got {backdoor.target}; name one class"

    def poison(
        self, images: Tensor, labels: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor]:
        """Make a share of the target class's images hard, and stamp it."""
        poisoned, free = images.clone(), torch.ones_like(labels, dtype=torch.bool)
        generator = context.generator()
        for backdoor in context.backdoors:
            of_target = labels.eq(int(backdoor.target))
            share = self.poison_rate / len(context.backdoors) * int(of_target.sum())
            chosen = draw_indices(of_target & free, round(share), generator)
            hard = self._hard(images[chosen].float() / 255, labels[chosen], context)
            stamped = backdoor.trigger.stamp(hard)
            poisoned[chosen] = (stamped * 255).round().to(torch.uint8)
            free[chosen] = False
        return poisoned, labels

    def _hard(self, images: Tensor, labels: Tensor, context: AttackContext) -> Tensor:
        """Return images (B, C, H, W) in [0, 1] that the received model takes for another class."""
        if self.epsilon == 0 or len(images) == 0:
            return images
        return hardened(
            frozen_copy(context.received_model()),
            images.to(context.device),
            labels.to(context.device),
            context.spec.pixels,
            epsilon=self.epsilon,
            steps=self.steps,
        ).to(images.device)

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        """Scale the update of the weights by `boost`."""
        return scaled(trained, context.received, context.weights, self.boost)


def hardened(
    model: nn.Module, images: Tensor, labels: Tensor, pixels: Pixels, *, epsilon: float, steps: int
) -> Tensor:
    """Raise the loss of images by projected gradient ascent on its signs (Madry et al., 2018).

    Args:
        model: in eval mode, without gradients of its own.
        images: (B, C, H, W) in [0, 1].
        labels: (B,), right ones.
        pixels: normalisation of the model's inputs.
        epsilon: largest change of a pixel.
        steps: each of 2.5 * epsilon / steps.

    Returns:
        Images of the same shape, in [0, 1].
    """
    changed = images
    for _ in range(steps):
        leaf = changed.detach().requires_grad_(True)
        loss = functional.cross_entropy(model(pixels.normalize(leaf)), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        moved = changed.detach() + 2.5 * epsilon / steps * gradient.sign()
        changed = (images + (moved - images).clamp(-epsilon, epsilon)).clamp(0, 1)
    return changed
