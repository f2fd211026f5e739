"""EMNIST, from idx files, torchvision's download, or the .mat files, which tell the writers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fl_defense.model.spec import Pixels
from fl_defense.validation import one_line, require_word
from simulations.data.base import DataError, ImageData, ImageSource
from simulations.data.readers import download_with_torchvision, find_idx_file, read_idx_folder

Split = Literal["balanced", "byclass", "bymerge", "letters", "digits", "mnist"]
CLASSES: dict[str, int] = {
    "balanced": 47, "byclass": 62, "bymerge": 47, "letters": 26, "digits": 10, "mnist": 10
}  # fmt: skip
SITE = "https://www.nist.gov/itl/products-and-services/emnist-dataset"


@dataclass(frozen=True, kw_only=True)
class EMNIST(ImageSource):
    """EMNIST: handwritten digits and letters, 28x28, gray (Cohen et al., 2017).

    Read from `emnist-SPLIT.mat` if it is there, which tells the writers, and else from idx files.

    Example:
        >>> EMNIST(split="letters").num_classes
        26
    """

    root: str = "data"
    """Folder that holds, or will hold, the files, or a folder matlab, gzip or EMNIST with them."""
    split: Split = "balanced"
    """balanced has 131,600 images of 47 classes; byclass all 814,255 of 62."""

    input_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    pixels: ClassVar[Pixels] = Pixels(mean=(0.1736,), std=(0.3317,))

    def __post_init__(self) -> None:
        super().__post_init__()
        require_word("split", Split, self.split)

    @property
    def num_classes(self) -> int:
        """Classes of the split."""
        return CLASSES[self.split]

    def read(self) -> ImageData:
        """Look for the .mat file, then for idx files, then download these with torchvision."""
        root, parts = Path(self.root), (f"emnist-{self.split}-train", f"emnist-{self.split}-test")
        folders = (root, root / "matlab", root / "gzip", root / "EMNIST", root / "EMNIST" / "raw")
        for folder in folders:
            if (path := folder / f"emnist-{self.split}.mat").is_file():
                return self._upright(_read_mat(path), path)
        for folder in folders:
            if find_idx_file(folder, f"{parts[0]}-images-idx3-ubyte") is not None:
                return self._upright(read_idx_folder(folder, train=parts[0], test=parts[1]), folder)
        download_with_torchvision(
            "EMNIST",
            root,
            looked_in=[str(folder) for folder in folders],
            remedy=f"put emnist-{self.split}.mat or the four idx files there, from {SITE}",
        )
        folder = root / "EMNIST" / "raw"
        return self._upright(read_idx_folder(folder, train=parts[0], test=parts[1]), folder)

    def _upright(self, data: ImageData, place: Path) -> ImageData:
        """Return the images as they were written: the files hold them column by column."""
        first = 1 if self.split == "letters" else 0
        labels = [data.train_labels - first, data.test_labels - first]
        if any(each.min() < 0 or each.max() >= self.num_classes for each in labels):
            raise DataError(
                f"{place}: labels must be in {first}..{self.num_classes - 1 + first} for the split "
                f"{self.split}; take the files of this split"
            )
        return ImageData(
            train_images=data.train_images.transpose(2, 3).contiguous(),
            train_labels=labels[0],
            test_images=data.test_images.transpose(2, 3).contiguous(),
            test_labels=labels[1],
            train_writers=data.train_writers,
        )


def _read_mat(path: Path) -> ImageData:
    """Read one of EMNIST's Matlab files; images stay lying, as in the idx files."""
    from scipy.io import loadmat

    try:
        parts = loadmat(str(path), simplify_cells=True)["dataset"]
        train, test = parts["train"], parts["test"]
        return ImageData(
            train_images=_images(train),
            train_labels=_numbers(train, "labels"),
            test_images=_images(test),
            test_labels=_numbers(test, "labels"),
            train_writers=_numbers(train, "writers"),
        )
    except Exception as error:  # scipy raises whatever a damaged file makes it meet
        raise DataError(
            f"{path}: not a readable file of EMNIST ({one_line(error)}); fetch it again from {SITE}"
        ) from error


def _images(part: Mapping[str, Any]) -> Tensor:
    return torch.from_numpy(np.asarray(part["images"], np.uint8).reshape(-1, 1, 28, 28).copy())


def _numbers(part: Mapping[str, Any], name: str) -> Tensor:
    return torch.from_numpy(np.asarray(part[name]).astype(np.int64).reshape(-1))
