"""Classes in shares from a Dirichlet distribution."""

from dataclasses import dataclass

import numpy as np

from fl_defense.validation import require_at_least, require_positive
from simulations.data.partitions.base import MAX_DRAWS, Indices, require_enough


@dataclass(frozen=True, kw_only=True)
class Dirichlet:
    """Each class is dealt out in shares drawn from a Dirichlet distribution (Hsu et al., 2019).

    Example:
        >>> labels = np.arange(100) % 4
        >>> parts = Dirichlet(alpha=0.5, min_size=5).split(labels, num_clients=3, seed=0)
        >>> sum(len(part) for part in parts), min(len(part) for part in parts) >= 5
        (100, True)
    """

    alpha: float = 0.5
    """Concentration: 0.1 is strongly skewed, 100 is nearly iid."""
    min_size: int = 10
    """Fewest images that a client may have; shares are drawn again until all have them."""

    def __post_init__(self) -> None:
        require_positive(self, "alpha")
        require_at_least(self, min_size=1)

    def split(self, labels: Indices, num_clients: int, seed: int) -> list[Indices]:
        """Draw each class's shares; draw all again while a client is below `min_size`."""
        require_enough(len(labels), num_clients, self.min_size)
        generator = np.random.default_rng(seed)
        for _ in range(MAX_DRAWS):
            classes: list[Indices] = []
            cuts: list[Indices] = []
            sizes = np.zeros(num_clients, np.int64)
            for label in np.unique(labels):
                members = generator.permutation(np.flatnonzero(labels == label))
                shares = generator.dirichlet(np.full(num_clients, self.alpha))
                classes.append(members)
                cuts.append((np.cumsum(shares)[:-1] * len(members)).astype(int))
                sizes += np.diff(cuts[-1], prepend=0, append=len(members))
            if sizes.min() >= self.min_size:
                chunks = zip(*map(np.split, classes, cuts), strict=True)
                return [np.sort(np.concatenate(chunk)) for chunk in chunks]
        raise ValueError(
            f"no draw in {MAX_DRAWS} gave each of {num_clients} clients {self.min_size} images; "
            "raise alpha or lower min-size"
        )
