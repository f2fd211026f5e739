"""Equal random shares."""

from dataclasses import dataclass

import numpy as np

from simulations.data.partitions.base import Indices, require_enough


@dataclass(frozen=True, kw_only=True)
class IID:
    """Every client gets a random share of equal size.

    Example:
        >>> [len(part) for part in IID().split(np.arange(10), num_clients=3, seed=0)]
        [4, 3, 3]
    """

    def split(self, labels: Indices, num_clients: int, seed: int) -> list[Indices]:
        """Shuffle and cut; sizes differ by at most one."""
        require_enough(len(labels), num_clients, 1)
        order = np.random.default_rng(seed).permutation(len(labels))
        return [np.sort(part) for part in np.array_split(order, num_clients)]
