"""Clients of unequal sizes."""

from dataclasses import dataclass

import numpy as np

from fl_defense.validation import require_at_least, require_positive
from simulations.data.partitions.base import MAX_DRAWS, Indices, require_enough


@dataclass(frozen=True, kw_only=True)
class QuantitySkew:
    """Random shares whose sizes are drawn from a Dirichlet distribution (Li et al., ICDE 2022).

    Classes are mixed as in an iid partition; some clients have many images, others few.

    Example:
        >>> parts = QuantitySkew(alpha=0.5, min_size=5).split(np.zeros(100), num_clients=3, seed=0)
        >>> sum(len(part) for part in parts), min(len(part) for part in parts) >= 5
        (100, True)
    """

    alpha: float = 0.5
    """Concentration: 0.1 is strongly skewed, with 100 sizes are nearly equal."""
    min_size: int = 10
    """Fewest images that a client may have; sizes are drawn again until all have them."""

    def __post_init__(self) -> None:
        require_positive(self, "alpha")
        require_at_least(self, min_size=1)

    def split(self, labels: Indices, num_clients: int, seed: int) -> list[Indices]:
        """Shuffle, then cut at the drawn sizes; draw these again while one is too small."""
        require_enough(len(labels), num_clients, self.min_size)
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(labels))
        for _ in range(MAX_DRAWS):
            shares = generator.dirichlet(np.full(num_clients, self.alpha))
            parts = np.split(order, (np.cumsum(shares)[:-1] * len(labels)).astype(int))
            if min(map(len, parts)) >= self.min_size:
                return [np.sort(part) for part in parts]
        raise ValueError(
            f"no draw in {MAX_DRAWS} gave each of {num_clients} clients {self.min_size} images; "
            "raise alpha or lower min-size"
        )
