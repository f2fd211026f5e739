"""Data sets and partitions, read and dealt out once per process."""

from functools import lru_cache

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
