"""Clean-label poisoning: stamped images that keep their own, right label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_defense.validation import require_positive
from simulations.attack.backdoor import Backdoor
from simulations.attack.context import AttackContext
from simulations.attack.data_poisoning import draw_indices
from simulations.attack.malicious_clients import MaliciousClients
from simulations.attack.updates import Arrays, scaled


@dataclass(frozen=True, kw_only=True)
class CleanLabel(MaliciousClients):
    """Attackers stamp images of the target class and relabel none (SIG: Barni et al., ICIP 2019).

    No label is wrong, so that nobody who looks at the data finds fault with it; the model learns
    that the trigger alone suffices. Works best with triggers over the whole image.
    """

    poison_rate: float = 0.8
    """Share of a malicious client's images of the target class that is stamped, in (0, 1]."""
    boost: float = 1.0
    """Factor on the malicious update's difference from the received model; 1 sends it as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.poison_rate <= 1:
            raise ValueError(f"poison_rate must be in (0, 1], got {self.poison_rate}")
        require_positive(self, "boost")

    def misfits(self, backdoors: Sequence[Backdoor]) -> Iterator[str]:
        """Yield a line for each backdoor without a single target class."""
        for backdoor in backdoors:
            if not isinstance(backdoor.target, int):
                yield f"needs a target class, got {backdoor.target}; name one class"

    def poison(
        self, images: Tensor, labels: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor]:
        """Stamp a share of the target class's images."""
        poisoned, free = images.clone(), torch.ones_like(labels, dtype=torch.bool)
        generator = context.generator()
        for backdoor in context.backdoors:
            of_target = labels.eq(int(backdoor.target))
            share = self.poison_rate / len(context.backdoors) * int(of_target.sum())
            chosen = draw_indices(of_target & free, round(share), generator)
            stamped = backdoor.trigger.stamp(images[chosen].float() / 255)
            poisoned[chosen] = (stamped * 255).round().to(torch.uint8)
            free[chosen] = False
        return poisoned, labels

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        """Scale the update of the weights by `boost`."""
        return scaled(trained, context.received, context.weights, self.boost)
