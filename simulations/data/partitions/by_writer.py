"""Whole writers for each client: the partition that came with the data."""

from dataclasses import dataclass

import numpy as np

from simulations.data.partitions.base import Indices


@dataclass(frozen=True, kw_only=True)
class ByWriter:
    """Each client gets all images of some writers, for data sets that tell who wrote what.

    As in FEMNIST (Caldas et al., 2018), if there are as many clients as writers. `deal_out` passes
    writers in the place of labels.

    Example:
        >>> writers = np.array([7, 7, 3, 9, 3, 7])
        >>> parts = ByWriter().split(writers, num_clients=3, seed=0)
        >>> sorted(part.tolist() for part in parts)
        [[0, 1, 5], [2, 4], [3]]
    """

    def split(self, labels: Indices, num_clients: int, seed: int) -> list[Indices]:
        """Shuffle the writers and cut; how many a client has differs by at most one.

        Args:
            labels: the writer of each image.
            num_clients: no more than there are writers.
            seed: of the shuffle.
        """
        writers = np.unique(labels)
        if len(writers) < num_clients:
            raise ValueError(
                f"{len(writers)} writers are too few for {num_clients} clients; take fewer clients"
            )
        groups = np.array_split(np.random.default_rng(seed).permutation(writers), num_clients)
        owners = np.empty(len(writers), np.int64)
        for client, group in enumerate(groups):
            owners[np.searchsorted(writers, group)] = client
        owner = owners[np.searchsorted(writers, labels)]
        order = np.argsort(owner, kind="stable")
        return np.split(order, np.bincount(owner, minlength=num_clients).cumsum()[:-1])
