"""File formats: idx, pictures, and torchvision's downloads."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fl_defense.progress import counted
from simulations.data.base import DataError, ImageData

DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of more than 8 bits a pixel."""


def find_idx_file(folder: Path, stem: str) -> Path | None:
    """Return the idx file of that name in a folder, gzipped or not; None if there is none."""
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def read_idx_folder(folder: Path, *, train: str = "train", test: str = "t10k") -> ImageData:
    """Read the four idx files of an MNIST-like data set.

    Args:
        folder: where they are.
        train: what the names of the two training files begin with.
        test: what the names of the two test files begin with.

    Raises:
        DataError: if a file is missing or damaged.
    """
    arrays = {}
    for part in (train, test):
        for kind, dimensions in (("images", 3), ("labels", 1)):
            stem = f"{part}-{kind}-idx{dimensions}-ubyte"
            path = find_idx_file(folder, stem)
            if path is None:
                raise DataError(f"{folder}: {stem} is missing; put all four idx files there")
            arrays[part, kind] = _read_idx(path)
    return ImageData(
        train_images=arrays[train, "images"][:, None],
        train_labels=arrays[train, "labels"].long(),
        test_images=arrays[test, "images"][:, None],
        test_labels=arrays[test, "labels"].long(),
    )


def _read_idx(path: Path) -> Tensor:
    """Read an idx file of unsigned bytes (LeCun's MNIST format), gzipped or not."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if content[:3] != b"\x00\x00\x08":
        raise DataError(f"{path}: not an idx file of unsigned bytes; fetch it again")
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", count=dimensions, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    return torch.from_numpy(values.reshape(shape).copy())


def read_pictures(
    samples: list[tuple[str, int]], size: int, channels: int
) -> tuple[Tensor, Tensor]:
    """Read picture files as uint8 (N, channels, size, size), with their labels (N,)."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    images = np.empty((len(samples), size, size, channels), np.uint8)
    for index, (path, _) in enumerate(counted("reading pictures", samples)):
        try:
            with Image.open(path) as picture:
                upright = ImageOps.exif_transpose(picture)
                if upright.mode in DEEP_MODES:
                    raise DataError(
                        f"{path}: more than 8 bits a pixel (mode {upright.mode}), which Pillow "
                        "would cut off; convert it to 8 bits"
                    )
                converted = upright.convert("RGB" if channels == 3 else "L")
                if converted.size != (size, size):
                    converted = converted.resize((size, size), Image.Resampling.BILINEAR)
                images[index] = np.asarray(converted).reshape(size, size, channels)
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(
                f"{path}: not a readable picture ({error}); remove or replace it"
            ) from error
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def download_with_torchvision(name: str, root: Path, looked_in: list[str], remedy: str) -> None:
    """Have torchvision fetch a data set.

    Raises:
        DataError: if it cannot, naming the places looked in and the remedy.
    """
    from torchvision import datasets

    try:
        if name == "GTSRB":
            for split in ("train", "test"):
                datasets.GTSRB(root, split=split, download=True)
        elif name == "EMNIST":
            datasets.EMNIST(root, split="balanced", download=True)  # the archive holds all splits
        else:
            getattr(datasets, name)(root, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name}: not found in {', '.join(looked_in)}, and the download failed ({error}); "
            f"{remedy}"
        ) from error
