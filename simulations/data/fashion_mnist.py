"""Fashion-MNIST, from idx files or torchvision's download."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fl_defense.model.spec import Pixels
from simulations.data.base import ImageData, ImageSource
from simulations.data.readers import download_with_torchvision, find_idx_file, read_idx_folder


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(ImageSource):
    """Fashion-MNIST: 60,000 train, 10,000 test images of clothes, 28x28, gray (Zalando, 2017).

    Example:
        >>> FashionMNIST(root="data").input_shape
        (1, 28, 28)
    """

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
