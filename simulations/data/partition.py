"""How the training images are dealt out to the clients; a pure function of the seed."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fl_defense.validation import require_at_least, require_positive

Indices = NDArray[np.int64]


MAX_DRAWS = 1000
"""Dirichlet draws before giving up on the smallest size."""


class Partition(Hashable, Protocol):
    """Deals out the images of a data set.

    Example:
        >>> isinstance(hash(IID()), int)  # a partition is a value
        True
    """

    def split(self, labels: Indices, num_clients: int, seed: int) -> list[Indices]:
        """Return the sorted image indices of each client: disjoint, covering all of `labels`.

        Raises:
            ValueError: if there are too few images.
        """


@dataclass(frozen=True, kw_only=True)
class IID:
    """Every client gets a random share of equal size.

    Example:
        >>> [len(part) for part in IID().split(np.arange(10), num_clients=3, seed=0)]
        [4, 3, 3]
    """

    def split(self, labels: Indices, num_clients: int, seed: int) -> list[Indices]:
        """Shuffle and cut; sizes differ by at most one."""
        _require_enough(len(labels), num_clients, 1)
        order = np.random.default_rng(seed).permutation(len(labels))
        return [np.sort(part) for part in np.array_split(order, num_clients)]


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
        _require_enough(len(labels), num_clients, self.min_size)
        generator = np.random.default_rng(seed)
        for _ in range(MAX_DRAWS):
            parts: list[list[Indices]] = [[] for _ in range(num_clients)]
            for label in np.unique(labels):
                members = generator.permutation(np.flatnonzero(labels == label))
                shares = generator.dirichlet(np.full(num_clients, self.alpha))
                cuts = (np.cumsum(shares)[:-1] * len(members)).astype(int)
                for part, chunk in zip(parts, np.split(members, cuts), strict=True):
                    part.append(chunk)
            clients = [np.sort(np.concatenate(part)) for part in parts]
            if min(map(len, clients)) >= self.min_size:
                return clients
        raise ValueError(
            f"no draw in {MAX_DRAWS} gave each of {num_clients} clients {self.min_size} images; "
            "raise alpha or lower min-size"
        )


PARTITIONS: dict[str, type[IID] | type[Dirichlet]] = {"iid": IID, "dirichlet": Dirichlet}
"""Partitions by the name that a scenario gives."""


def _require_enough(num_images: int, num_clients: int, min_size: int) -> None:
    if num_images < num_clients * min_size:
        raise ValueError(
            f"{num_images} images are too few for {num_clients} clients with {min_size} each"
        )
