"""The data sets that victims are trained on, by name, from folders and archives."""

import tarfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.subsets import Subset
from simulations.data import (
    CIFAR10,
    GTSRB,
    Digits,
    FashionMNIST,
    ImageData,
    ImageFolder,
    ImageSource,
)

TEN = (1, 2, 4, 5, 7, 9, 10, 12, 13, 38)
"""Ten frequent classes of GTSRB."""
OTHER = {
    "digits": "fashion-mnist",
    "fashion-mnist": "digits",
    "cifar10": "gtsrb",
    "gtsrb": "cifar10",
}
"""The data set whose images are out of distribution for another's models."""
SUBSETS: dict[str, tuple[tuple[int, ...], dict[str, Any], bool]] = {
    "gtsrb-10": (TEN, {}, False),
    "gtsrb-10-64": (TEN, {"size": 64}, False),
    "gtsrb-10-96": (TEN, {"size": 96}, False),
    "gtsrb-10-gray-64": (TEN, {"size": 64, "channels": 1, "mean": (0.33,), "std": (0.27,)}, False),
    "gtsrb-3": (TEN[:3], {}, False),
    "gtsrb-100": (tuple(range(25)), {}, True),
}
"""Data sets made from GTSRB: its classes, how its pictures are read, whether they are turned."""


class Sources:
    """Finds data sets.

    Args:
        cache: folder for unpacked archives.
        roots: per data set, an ImageFolder or its .tar.gz archive; for fashion-mnist the folder of
            the idx files.
    """

    def __init__(self, cache: Path, roots: Mapping[str, Path]) -> None:
        self.cache, self.roots = cache, roots

    def source(self, name: str) -> ImageSource:
        """Return a data set by its name."""
        if name == "digits":
            return Digits()
        if name in SUBSETS:
            classes, settings, turned = SUBSETS[name]
            return Subset(of=self._folder("gtsrb", settings), classes=classes, turned=turned)
        root = self.roots.get(name, Path("data"))
        if name == "fashion-mnist":
            return FashionMNIST(root=str(root))
        return self._folder(name, {})

    def _folder(self, name: str, settings: Mapping[str, Any]) -> ImageFolder:
        root = self.roots.get(name, Path("data"))
        if root.is_file():
            root = self._unpack(root, name)
        pixels = asdict({"cifar10": CIFAR10.pixels, "gtsrb": GTSRB.pixels}[name])
        return ImageFolder(root=str(root), **{"size": 32} | pixels | dict(settings))

    def _unpack(self, archive: Path, name: str) -> Path:
        folder = self.cache / name
        if not folder.exists():
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        return folder if (folder / "train").exists() else next(folder.iterdir())


@lru_cache(maxsize=3)
def loaded(source: ImageSource) -> ImageData:
    """Return a data set's images, which are kept for the next call."""
    return source.load()
