"""Data sets in the form in which torchvision keeps them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from fl_defense.model.spec import Pixels
from simulations.data.base import DataError, ImageData, ImageSource
from simulations.data.readers import download_with_torchvision, read_pictures


@dataclass(frozen=True, kw_only=True)
class CIFAR10(ImageSource):
    """CIFAR-10: 50,000 train and 10,000 test photographs, 32x32, color (Krizhevsky, 2009).

    Example:
        >>> CIFAR10(max_train=1000).num_classes
        10
    """

    root: str = "data"
    """Folder that holds, or will hold, torchvision's cifar-10-batches-py."""

    input_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    num_classes: ClassVar[int] = 10
    pixels: ClassVar[Pixels] = Pixels(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))

    def read(self) -> ImageData:
        """Read torchvision's copy, downloading it if it is not there."""
        return _read_cifar("CIFAR10", Path(self.root), "cifar-10-batches-py", "cifar-10-python")


@dataclass(frozen=True, kw_only=True)
class CIFAR100(ImageSource):
    """CIFAR-100: 50,000 train and 10,000 test photographs of 100 classes, 32x32, color.

    Krizhevsky, 2009; the fine labels.

    Example:
        >>> CIFAR100(max_train=1000).num_classes
        100
    """

    root: str = "data"
    """Folder that holds, or will hold, torchvision's cifar-100-python."""

    input_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    num_classes: ClassVar[int] = 100
    pixels: ClassVar[Pixels] = Pixels(mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))

    def read(self) -> ImageData:
        """Read torchvision's copy, downloading it if it is not there."""
        return _read_cifar("CIFAR100", Path(self.root), "cifar-100-python", "cifar-100-python")


def _read_cifar(name: str, root: Path, unpacked: str, archive: str) -> ImageData:
    """Read a data set of the CIFAR family, whose files torchvision checks by their sums."""
    from torchvision import datasets

    folder, url = root / unpacked, f"https://www.cs.toronto.edu/~kriz/{archive}.tar.gz"
    if not folder.is_dir():
        download_with_torchvision(
            name,
            root,
            looked_in=[str(folder)],
            remedy=f"unpack {url} there, or use data.name=image-folder",
        )
    try:
        train, test = (getattr(datasets, name)(str(root), train=part) for part in (True, False))
    except RuntimeError as error:
        raise DataError(
            f"{folder}: files are missing or damaged; unpack {url} there again"
        ) from error
    return ImageData(
        train_images=torch.from_numpy(train.data).permute(0, 3, 1, 2).contiguous(),
        train_labels=torch.tensor(train.targets),
        test_images=torch.from_numpy(test.data).permute(0, 3, 1, 2).contiguous(),
        test_labels=torch.tensor(test.targets),
    )


@dataclass(frozen=True, kw_only=True)
class GTSRB(ImageSource):
    """German traffic signs, 43 classes, color, resized (Stallkamp et al., 2012).

    Example:
        >>> GTSRB(size=48).input_shape
        (3, 48, 48)
    """

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

    @property
    def folder(self) -> Path:
        """Folder of torchvision's gtsrb."""
        return Path(self.root) / "gtsrb"

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
