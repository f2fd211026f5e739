"""Data sets, one file each, and how they are dealt out to clients. `base` is the contract."""

from simulations.data.base import DataError, ImageData, ImageSource
from simulations.data.digits import Digits
from simulations.data.emnist import EMNIST
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
from simulations.data.tiny_imagenet import TinyImageNet
from simulations.data.torchvision_sets import CIFAR10, CIFAR100, GTSRB

DATASETS: dict[str, type[ImageSource]] = {
    "digits": Digits,
    "fashion-mnist": FashionMNIST,
    "emnist": EMNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "gtsrb": GTSRB,
    "tiny-imagenet": TinyImageNet,
    "image-folder": ImageFolder,
}
"""Data sets by the name that a scenario gives."""

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "DATASETS",
    "EMNIST",
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
    "TinyImageNet",
    "deal_out",
    "load_data",
]
