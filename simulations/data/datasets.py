"""Data sets: images as uint8 in memory, read once per process."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fl_defense.model_spec import Pixels
from fl_defense.pictures import fit
from fl_defense.ranges import require_at_least
from simulations.data.readers import (
    DataError,
    ImageData,
    download_with_torchvision,
    find_idx_file,
    read_idx_folder,
    read_pictures,
)


@dataclass(frozen=True, kw_only=True)
class ImageSource(ABC):
    """What every data set offers: its sizes before reading it, and its images."""

    max_train: int | None = None
    """Use only this many training images, the first of a fixed shuffle; null: all."""
    max_test: int | None = None
    """Use only this many test images, the first of a fixed shuffle; null: all."""

    def __post_init__(self) -> None:
        for name in ("max_train", "max_test"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1 or null, got {limit}")

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes.

        Raises:
            DataError: if it has to be read from a place that does not exist.
        """

    @property
    @abstractmethod
    def pixels(self) -> Pixels:
        """Mean and standard deviation to normalise with."""

    def draw(self, num: int, shape: tuple[int, int, int]) -> Tensor:
        """Return `num` training images in [0, 1], drawn at random and resized: surrogate images.

        Raises:
            DataError: if the data set cannot be had.
        """
        images = self.load().train_images
        rounds = -(-num // len(images))
        order = torch.cat([torch.randperm(len(images)) for _ in range(rounds)])[:num]
        return fit(images[order].float() / 255, shape)

    @abstractmethod
    def read(self) -> ImageData:
        """Read all images.

        Raises:
            DataError: if they cannot be had.
        """

    def load(self) -> ImageData:
        """Read the images and apply the limits."""
        data = self.read()
        train = _first_of_shuffle(len(data.train_labels), self.max_train)
        test = _first_of_shuffle(len(data.test_labels), self.max_test)
        return ImageData(
            train_images=data.train_images[train],
            train_labels=data.train_labels[train],
            test_images=data.test_images[test],
            test_labels=data.test_labels[test],
        )


@dataclass(frozen=True, kw_only=True)
class Digits(ImageSource):
    """The 1,797 handwritten digits that scikit-learn ships, enlarged from 8x8 to 16x16 pixels.

    1,437 train, 360 test, stratified; never downloads anything.
    """

    input_shape: ClassVar[tuple[int, int, int]] = (1, 16, 16)
    num_classes: ClassVar[int] = 10
    pixels: ClassVar[Pixels] = Pixels(mean=(0.305,), std=(0.319,))

    def read(self) -> ImageData:
        """Read the digits from scikit-learn's package."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
        large = functional.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False)
        pixels = (large * 255).round().to(torch.uint8)
        train, test = train_test_split(
            np.arange(len(pixels)), test_size=360, random_state=0, stratify=digits.target
        )
        labels = torch.tensor(digits.target, dtype=torch.int64)
        return ImageData(
            train_images=pixels[train],
            train_labels=labels[train],
            test_images=pixels[test],
            test_labels=labels[test],
        )


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(ImageSource):
    """Fashion-MNIST: 60,000 train, 10,000 test images of clothes, 28x28, gray (Zalando, 2017)."""

    root: str = "data"
    """Folder that holds, or will hold, the data set."""

    input_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    num_classes: ClassVar[int] = 10
    pixels: ClassVar[Pixels] = Pixels(mean=(0.2860,), std=(0.3530,))
    debian: ClassVar[Path] = Path("/usr/share/datasets/fashion-mnist")

    def read(self) -> ImageData:
        """Look under `root`, then where Debian puts it, then download it with torchvision."""
        root = Path(self.root)
        folders = (root, root / "fashion-mnist", root / "FashionMNIST" / "raw", self.debian)
        for folder in folders:
            if find_idx_file(folder, "train-images-idx3-ubyte") is not None:
                return read_idx_folder(folder)
        download_with_torchvision(
            "FashionMNIST",
            root,
            looked_in=[str(folder) for folder in folders],
            remedy="apt-get install dataset-fashion-mnist, or put the four idx files there",
        )
        return read_idx_folder(root / "FashionMNIST" / "raw")


@dataclass(frozen=True, kw_only=True)
class CIFAR10(ImageSource):
    """CIFAR-10: 50,000 train and 10,000 test photographs, 32x32, color (Krizhevsky, 2009)."""

    root: str = "data"
    """Folder that holds, or will hold, torchvision's cifar-10-batches-py."""

    input_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    num_classes: ClassVar[int] = 10
    pixels: ClassVar[Pixels] = Pixels(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))

    def read(self) -> ImageData:
        """Read torchvision's copy, downloading it if it is not there."""
        from torchvision import datasets

        root = Path(self.root)
        if not (root / "cifar-10-batches-py").is_dir():
            download_with_torchvision(
                "CIFAR10",
                root,
                looked_in=[str(root / "cifar-10-batches-py")],
                remedy="put cifar-10-batches-py there, or use data.name=image-folder",
            )
        train, test = (datasets.CIFAR10(self.root, train=part) for part in (True, False))
        return ImageData(
            train_images=torch.from_numpy(train.data).permute(0, 3, 1, 2).contiguous(),
            train_labels=torch.tensor(train.targets),
            test_images=torch.from_numpy(test.data).permute(0, 3, 1, 2).contiguous(),
            test_labels=torch.tensor(test.targets),
        )


@dataclass(frozen=True, kw_only=True)
class GTSRB(ImageSource):
    """German traffic signs, 43 classes, color, resized (Stallkamp et al., 2012)."""

    root: str = "data"
    """Folder that holds, or will hold, torchvision's gtsrb."""
    size: int = 32
    """Height and width to resize to, in pixels."""

    num_classes: ClassVar[int] = 43
    pixels: ClassVar[Pixels] = Pixels(mean=(0.3403, 0.3121, 0.3214), std=(0.2724, 0.2608, 0.2669))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (3, self.size, self.size)

    def read(self) -> ImageData:
        """Read torchvision's copy, downloading it if it is not there."""
        from torchvision import datasets

        root = Path(self.root)
        if not (root / "gtsrb").is_dir():
            download_with_torchvision(
                "GTSRB",
                root,
                looked_in=[str(root / "gtsrb")],
                remedy="put torchvision's gtsrb folder there, or use data.name=image-folder",
            )
        train, test = (datasets.GTSRB(self.root, split=part) for part in ("train", "test"))
        train_images, train_labels = read_pictures(train._samples, self.size, channels=3)
        test_images, test_labels = read_pictures(test._samples, self.size, channels=3)
        return ImageData(
            train_images=train_images,
            train_labels=train_labels,
            test_images=test_images,
            test_labels=test_labels,
        )


@dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageSource):
    """Anybody's pictures: ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg, resized."""

    root: str
    """Folder with train/ and test/, each with one folder per class."""
    size: int = 32
    """Height and width to resize to, in pixels."""
    channels: int = 3
    """3 for color, 1 for gray."""
    mean: tuple[float, ...] = (0.5,)
    """Mean to normalise with, one number or one per channel, for images in [0, 1]."""
    std: tuple[float, ...] = (0.25,)
    """Standard deviation to normalise with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, size=8)
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(f"{name} must have 1 or {self.channels} numbers")
        Pixels(mean=self.mean, std=self.std)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (self.channels, self.size, self.size)

    @property
    def num_classes(self) -> int:
        """Number of folders in train/."""
        return len(self._classes("train"))

    @property
    def pixels(self) -> Pixels:
        """Mean and standard deviation as given."""
        return Pixels(mean=self.mean, std=self.std)

    def read(self) -> ImageData:
        """Read and resize all pictures."""
        classes = self._classes("train")
        if self._classes("test") != classes:
            raise DataError(
                f"{self.root}: train/ and test/ must hold the same classes, "
                f"got {len(classes)} and {len(self._classes('test'))}; make the folders agree"
            )
        parts = {}
        for part in ("train", "test"):
            samples = [
                (str(path), label)
                for label, name in enumerate(classes)
                for path in sorted((Path(self.root) / part / name).iterdir())
                if path.is_file()
            ]
            parts[part] = read_pictures(samples, self.size, self.channels)
        return ImageData(
            train_images=parts["train"][0],
            train_labels=parts["train"][1],
            test_images=parts["test"][0],
            test_labels=parts["test"][1],
        )

    def _classes(self, part: str) -> list[str]:
        folder = Path(self.root) / part
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder; image-folder needs {self.root}/train and "
                f"{self.root}/test with one folder per class"
            )
        classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
        if len(classes) < 2:
            raise DataError(f"{folder}: must hold at least 2 class folders, got {len(classes)}")
        return classes


def _first_of_shuffle(total: int, limit: int | None) -> Tensor:
    """Indices of a fixed random subset in ascending order; all of them without a limit."""
    if limit is None or limit >= total:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:limit].sort().values
