"""Data sets and partitions, read and dealt out once per process."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from simulations.data.base import ImageData, ImageSource
from simulations.data.partitions import ByWriter, Indices, Partition


@lru_cache(maxsize=2)
def load_data(source: ImageSource) -> ImageData:
    """Read a data set once per process; the clients of a Ray worker share it.

    Example:
        >>> from simulations.data import Digits
        >>> load_data(Digits(max_train=10)) is load_data(Digits(max_train=10))  # read once
        True
    """
    return source.load()


@lru_cache(maxsize=4)
def deal_out(
    partition: Partition, source: ImageSource, num_clients: int, seed: int
) -> list[Indices]:
    """Return the training images' indices of each client; dealt out once per process.

    Raises:
        ValueError: if the images cannot be dealt out so.

    Example:
        >>> from simulations.data import IID, Digits
        >>> [len(indices) for indices in deal_out(IID(), Digits(max_train=10), 3, seed=0)]
        [4, 3, 3]
    """
    data = load_data(source)
    kinds = data.train_writers if isinstance(partition, ByWriter) else data.train_labels
    if kinds is None:
        raise ValueError(
            "by-writer needs to know who wrote what, which these files do not tell; "
            "take another partition, or emnist with its .mat files"
        )
    return partition.split(kinds.numpy(), num_clients, seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class ClientImages:
    """The training images of all clients: each image once, and of a client its indices alone.

    Example:
        >>> from simulations.data import IID, Digits
        >>> of_clients = client_images(IID(), Digits(max_train=10), num_clients=3, seed=0)
        >>> images, labels = of_clients.of(2)
        >>> images.shape, labels.shape
        (torch.Size([3, 1, 16, 16]), torch.Size([3]))
    """

    images: Tensor
    """uint8 (N, C, H, W)."""
    labels: Tensor
    """int64 (N,)."""
    dealt: Tensor
    """int64 (N,): the indices of the first client, then of the second, and so on."""
    ends: Tensor
    """int64 (clients,): where those of a client end."""

    def of(self, client: int) -> tuple[Tensor, Tensor]:
        """Return one client's images and labels, copied."""
        begin = self.ends[client - 1] if client else 0
        mine = self.dealt[begin : self.ends[client]]
        return self.images[mine], self.labels[mine]


@lru_cache(maxsize=2)
def client_images(
    partition: Partition, source: ImageSource, num_clients: int, seed: int
) -> ClientImages:
    """Return the images of all clients.

    Raises:
        ValueError: if they cannot be dealt out so.
    """
    data, parts = load_data(source), deal_out(partition, source, num_clients, seed)
    return ClientImages(
        images=data.train_images,
        labels=data.train_labels,
        dealt=torch.from_numpy(np.concatenate(parts)),
        ends=torch.from_numpy(np.cumsum([len(part) for part in parts])),
    )
