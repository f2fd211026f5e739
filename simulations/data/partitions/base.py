"""The contract of a partition: how the training images are dealt out to the clients."""

from collections.abc import Hashable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

MAX_DRAWS = 1000
"""Draws of sizes before giving up on the smallest one."""


class Partition(Hashable, Protocol):
    """Deals out the images of a data set; a pure function of the seed.

    Example:
        >>> from simulations.data import IID
        >>> isinstance(hash(IID()), int)  # a partition is a value
        True
    """

    def split(self, labels: Indices, num_clients: int, seed: int) -> list[Indices]:
        """Return the sorted image indices of each client: disjoint, covering all of `labels`.

        Raises:
            ValueError: if there are too few images.
        """


def require_enough(num_images: int, num_clients: int, min_size: int) -> None:
    """Refuse fewer images than the clients need."""
    if num_images < num_clients * min_size:
        raise ValueError(
            f"{num_images} images are too few for {num_clients} clients with {min_size} each"
        )
