"""BadNets: malicious clients stamp a trigger on their images and relabel them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fl_defense.validation import require_at_least, require_positive
from simulations.attack.backdoor import Backdoor
from simulations.attack.base import Arrays


@dataclass(frozen=True, kw_only=True)
class BadNets:
    """Malicious clients stamp part of their images and relabel them (Gu et al., 2017).

    With `boost` above 1 they also scale their update, as in model replacement (Bagdasaryan et al.,
    AISTATS 2020).
    """

    malicious: float | tuple[int, ...] = 0.2
    """Share of the clients, drawn from the seed, or a list of partition ids."""
    poison_rate: float = 0.5
    """Share of a malicious client's images that is stamped and relabelled, in (0, 1]; of its images
    of the source classes where the backdoor has `sources`."""
    cover_rate: float = 0.5
    """Cover images per relabelled one: stamped images of other classes, which keep their label and
    so teach the model to heed the sources; only where the backdoor has `sources`."""
    boost: float = 1.0
    """Factor on the malicious update's difference from the received model; 1 sends it as it is."""
    first_round: int = 1
    """First round in which malicious clients attack."""
    last_round: int | None = None
    """Last round in which they attack; null: to the end."""

    def __post_init__(self) -> None:
        if isinstance(self.malicious, float) and not 0 < self.malicious < 1:
            raise ValueError(f"malicious must be a share in (0, 1), got {self.malicious}")
        if not 0 < self.poison_rate <= 1:
            raise ValueError(f"poison_rate must be in (0, 1], got {self.poison_rate}")
        require_at_least(self, cover_rate=0)
        require_positive(self, "boost")
        require_at_least(self, first_round=1)
        if self.last_round is not None and self.last_round < self.first_round:
            raise ValueError(f"last_round must be at least first_round, got {self.last_round}")

    def malicious_clients(self, num_clients: int, seed: int) -> tuple[int, ...]:
        """Draw `malicious` of the clients, or return the given ids."""
        if isinstance(self.malicious, float):
            count = round(self.malicious * num_clients)
            chosen = np.random.default_rng(seed).permutation(num_clients)[:count].tolist()
        else:
            chosen = sorted(set(self.malicious))
            if any(not 0 <= client < num_clients for client in chosen):
                raise ValueError(f"ids must be in 0..{num_clients - 1}, got {chosen}")
        if not 0 < len(chosen) < num_clients:
            who = "everybody" if chosen else "nobody"
            raise ValueError(
                f"{self.malicious} of {num_clients} clients makes {who} malicious; "
                "choose at least one and not all, or attack name none"
            )
        return tuple(sorted(chosen))

    def is_active(self, server_round: int) -> bool:
        """Tell whether the round lies between the first and the last."""
        return self.first_round <= server_round <= (self.last_round or server_round)

    def poison(
        self,
        images: Tensor,
        labels: Tensor,
        backdoors: Sequence[Backdoor],
        num_classes: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Stamp and relabel a random share of the images, and stamp cover images.

        Several backdoors share the images among them; none is stamped twice. A client without
        images of a backdoor's sources plants nothing of it.
        """
        poisoned, relabeled = images.clone(), labels.clone()
        free = torch.ones_like(labels, dtype=torch.bool)
        for backdoor in backdoors:
            source = backdoor.is_source(labels)
            share = self.poison_rate / len(backdoors) * int(source.sum())
            chosen = _draw(source & free, max(1, round(share)), generator)
            covers = _draw(~source & free, round(self.cover_rate * len(chosen)), generator)
            chosen = torch.cat([chosen, covers])
            stamped, wanted = backdoor.apply(
                images[chosen].float() / 255, labels[chosen], num_classes
            )
            poisoned[chosen] = (stamped * 255).round().to(torch.uint8)
            relabeled[chosen] = wanted
            free[chosen] = False
        return poisoned, relabeled

    def craft(self, received: Arrays, trained: Arrays, weights: Collection[str]) -> Arrays:
        """Scale the update of the weights by `boost`; a scaled variance could be negative."""
        if self.boost == 1:
            return trained
        return {
            name: received[name] + self.boost * (value - received[name])
            if name in weights
            else value
            for name, value in trained.items()
        }


def _draw(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return up to `count` random indices at which `candidates` (N,) is true."""
    indices = candidates.nonzero().flatten()
    return indices[torch.randperm(len(indices), generator=generator)[:count]]
