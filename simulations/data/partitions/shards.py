"""Shards of images sorted by class, as in the first paper on federated averaging."""

from dataclasses import dataclass

import numpy as np

from fl_defense.validation import require_at_least
from simulations.data.partitions.base import Indices, require_enough


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Images sorted by class are cut into equal shards, of which each client gets a few.

    McMahan et al., AISTATS 2017. A client has at most one class more than shards where a class
    fills a shard.

    Example:
        >>> labels = np.arange(100) % 5
        >>> parts = Shards(shards_per_client=1).split(labels, num_clients=5, seed=0)
        >>> [len(part) for part in parts], [len(set(labels[part])) for part in parts]
        ([20, 20, 20, 20, 20], [1, 1, 1, 1, 1])
    """

    shards_per_client: int = 2
    """Shards of each client; with 2 most have images of two classes."""

    def __post_init__(self) -> None:
        require_at_least(self, shards_per_client=1)

    def split(self, labels: Indices, num_clients: int, seed: int) -> list[Indices]:
        """Sort, cut and deal; shards differ by at most one image."""
        require_enough(len(labels), num_clients, self.shards_per_client)
        generator = np.random.default_rng(seed)
        shuffled = generator.permutation(len(labels))
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        shards = np.array_split(by_class, num_clients * self.shards_per_client)
        dealt = generator.permutation(len(shards)).reshape(num_clients, self.shards_per_client)
        return [np.sort(np.concatenate([shards[each] for each in mine])) for mine in dealt]
