"""Stamped and relabelled images among a malicious client's own: the base of most backdoors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_defense.validation import require_at_least
from simulations.attack.backdoor import Backdoor
from simulations.attack.context import AttackContext
from simulations.attack.malicious_clients import MaliciousClients


@dataclass(frozen=True, kw_only=True)
class DataPoisoning(MaliciousClients):
    """Malicious clients stamp part of their images and relabel them (Gu et al., 2017).

    Example:
        >>> class Sleeper(DataPoisoning):
        ...     def is_active(self, server_round):
        ...         return server_round % 7 == 0
        >>> Sleeper(malicious=(2,)).attackers(server_round=7, num_clients=5, seed=0)
        (2,)
    """

    poison_rate: float = 0.5
    """Share of a malicious client's images that is stamped and relabelled, in (0, 1]; of its images
    of the source classes where the backdoor has `sources`."""
    cover_rate: float = 0.5
    """Cover images per relabelled one: stamped images of other classes, which keep their label and
    so teach the model to heed the sources; only where the backdoor has `sources`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.poison_rate <= 1:
            raise ValueError(f"poison_rate must be in (0, 1], got {self.poison_rate}")
        require_at_least(self, cover_rate=0)

    def poison(
        self, images: Tensor, labels: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor]:
        """Stamp and relabel a random share of the images, and stamp cover images.

        Several backdoors share the images among them; none is stamped twice. A client without
        images of a backdoor's sources plants nothing of it. The same images are poisoned in every
        round, as if the client's data set were.
        """
        backdoors = self.planted(context)
        poisoned, relabeled = images.clone(), labels.clone()
        free = torch.ones_like(labels, dtype=torch.bool)
        generator = context.generator()
        for backdoor in backdoors:
            source = backdoor.is_source(labels)
            share = self.poison_rate / len(backdoors) * int(source.sum())
            chosen = draw_indices(source & free, max(1, round(share)), generator)
            covers = draw_indices(~source & free, round(self.cover_rate * len(chosen)), generator)
            chosen = torch.cat([chosen, covers])
            stamped, wanted = backdoor.apply(
                images[chosen].float() / 255, labels[chosen], context.num_classes
            )
            poisoned[chosen] = (stamped * 255).round().to(torch.uint8)
            relabeled[chosen] = wanted
            free[chosen] = False
        return poisoned, relabeled

    def planted(self, context: AttackContext) -> Sequence[Backdoor]:
        """Return the backdoors that this client plants: by default all that are measured."""
        return context.backdoors


def draw_indices(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return up to `count` random indices at which `candidates` (N,) is true."""
    indices = candidates.nonzero().flatten()
    return indices[torch.randperm(len(indices), generator=generator)[:count]]
