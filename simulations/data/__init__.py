"""Data sets and how they are dealt out to clients."""

from functools import lru_cache

from simulations.data.datasets import (
    CIFAR10,
    GTSRB,
    Digits,
    FashionMNIST,
    ImageFolder,
    ImageSource,
)
from simulations.data.partition import IID, PARTITIONS, Dirichlet, Partition
from simulations.data.readers import DataError, ImageData

DATASETS: dict[str, type[ImageSource]] = {
    "digits": Digits,
    "fashion-mnist": FashionMNIST,
    "cifar10": CIFAR10,
    "gtsrb": GTSRB,
    "image-folder": ImageFolder,
}
"""Data sets by the name that a scenario gives."""


@lru_cache(maxsize=2)
def load_data(source: ImageSource) -> ImageData:
    """Read a data set once per process; the clients of a Ray worker share it."""
    return source.load()


__all__ = [
    "CIFAR10",
    "DATASETS",
    "GTSRB",
    "IID",
    "PARTITIONS",
    "DataError",
    "Digits",
    "Dirichlet",
    "FashionMNIST",
    "ImageData",
    "ImageFolder",
    "ImageSource",
    "Partition",
    "load_data",
]
