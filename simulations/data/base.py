"""The contract of a data set: images as uint8 in memory, read once per process."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fl_defense.model.spec import Pixels
from fl_defense.surrogates.picture_folder import PictureFolder, fit


class DataError(ValueError):
    """A data set cannot be had; the message names the places looked at and the remedies.

    Example:
        >>> from simulations.data import FashionMNIST
        >>> issubclass(DataError, ValueError)
        True
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """A data set in memory. Images are uint8 (N, C, H, W) in 0..255, labels int64 (N,).

    Example:
        >>> images, labels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])
        >>> data = ImageData(
        ...     train_images=images, train_labels=labels, test_images=images, test_labels=labels
        ... )
        >>> data.train_images.shape
        torch.Size([2, 1, 8, 8])
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    train_writers: Tensor | None = None
    """Who wrote each training image, int64 (N,); None: the files do not tell."""


@dataclass(frozen=True, kw_only=True)
class ImageSource(ABC):
    """What every data set offers: its sizes before reading it, and its images.

    Example:
        >>> from simulations.data import Digits
        >>> Digits(max_train=100).load().train_images.shape
        torch.Size([100, 1, 16, 16])
    """

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

    @property
    def folder(self) -> Path | None:
        """Folder of single pictures that the images are read from, or None if there is none."""
        return None

    def shares_images_with(self, source: object) -> bool:
        """Tell whether another source, a surrogate for example, may hold images of this data set.

        A data set with a name is the same one wherever it lies; folders are, where one lies in
        the other.
        """
        return type(source) is type(self) or self.shares_folder_with(source)

    def shares_folder_with(self, source: object) -> bool:
        """Tell whether this source's folder lies in another's, or the other in this one."""
        match source:
            case PictureFolder(root=root) | ImageSource(folder=Path() as root):
                other = Path(root).resolve()
            case _:
                return False
        if self.folder is None:
            return False
        own = self.folder.resolve()
        return own.is_relative_to(other) or other.is_relative_to(own)

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
            train_writers=None if data.train_writers is None else data.train_writers[train],
        )


def _first_of_shuffle(total: int, limit: int | None) -> Tensor:
    """Indices of a fixed random subset in ascending order; all of them without a limit."""
    if limit is None or limit >= total:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:limit].sort().values
