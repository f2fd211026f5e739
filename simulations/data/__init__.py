"""Data sets, one file each, and how they are dealt out to clients. `base` is the contract."""

from simulations.data.base import DataError, ImageData, ImageSource
from simulations.data.digits import Digits
from simulations.data.fashion_mnist import FashionMNIST
from simulations.data.image_folder import ImageFolder
from simulations.data.load import deal_out, load_data
from simulations.data.partitions import (
    IID,
    PARTITIONS,
    ByWriter,
    Dirichlet,
    Partition,
    Pathological,
    QuantitySkew,
    Shards,
)
from simulations.data.torchvision_sets import CIFAR10, GTSRB

DATASETS: dict[str, type[ImageSource]] = {
    "digits": Digits,
    "fashion-mnist": FashionMNIST,
    "cifar10": CIFAR10,
    "gtsrb": GTSRB,
    "image-folder": ImageFolder,
}
"""Data sets by the name that a scenario gives."""

__all__ = [
    "CIFAR10",
    "DATASETS",
    "GTSRB",
    "IID",
    "PARTITIONS",
    "ByWriter",
    "DataError",
    "Digits",
    "Dirichlet",
    "FashionMNIST",
    "ImageData",
    "ImageFolder",
    "ImageSource",
    "Partition",
    "Pathological",
    "QuantitySkew",
    "Shards",
    "deal_out",
    "load_data",
]
