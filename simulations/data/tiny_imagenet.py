"""Tiny ImageNet, from its folders."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fl_defense.model.spec import Pixels
from fl_defense.validation import require_at_least
from simulations.data.base import DataError, ImageData, ImageSource
from simulations.data.readers import read_pictures

NAME = "tiny-imagenet-200"
SITE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

Sample = tuple[str, int]
"""A picture's path and its class."""


@dataclass(frozen=True, kw_only=True)
class TinyImageNet(ImageSource):
    """Tiny ImageNet: 100,000 train, 10,000 test photographs of 200 classes, 64x64, color.

    Le and Yang, 2015. What it calls val are the test images: its own have no public labels.

    Example:
        >>> TinyImageNet(size=32).input_shape, TinyImageNet.num_classes
        ((3, 32, 32), 200)
    """

    root: str = "data"
    """The unpacked folder tiny-imagenet-200, or the folder that holds it."""
    size: int = 64
    """Height and width to resize to, in pixels."""

    num_classes: ClassVar[int] = 200
    pixels: ClassVar[Pixels] = Pixels(mean=(0.4802, 0.4481, 0.3975), std=(0.2770, 0.2691, 0.2821))

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, size=8)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (3, self.size, self.size)

    @property
    def folder(self) -> Path:
        """Folder of the pictures."""
        inside = Path(self.root) / NAME
        return Path(self.root) if not inside.is_dir() and _is_unpacked(Path(self.root)) else inside

    def read(self) -> ImageData:
        """Read and resize all pictures; classes are numbered in the order of their WordNet ids."""
        folder = self.folder
        if not _is_unpacked(folder):
            raise DataError(f"tiny-imagenet: not found in {folder}; unpack {SITE} in {self.root}")
        names = sorted((folder / "wnids.txt").read_text(encoding="utf-8").split())
        classes = {name: number for number, name in enumerate(names)}
        if not 2 <= len(classes) <= self.num_classes:
            raise DataError(
                f"{folder / 'wnids.txt'}: must name 2 to 200 classes, got {len(classes)}; "
                f"unpack {SITE} again"
            )
        train = [each for name in names for each in _in_class(folder, name, classes[name])]
        test = list(_tested(folder / "val", classes))
        train_images, train_labels = read_pictures(train, self.size, channels=3)
        test_images, test_labels = read_pictures(test, self.size, channels=3)
        return ImageData(
            train_images=train_images,
            train_labels=train_labels,
            test_images=test_images,
            test_labels=test_labels,
        )


def _is_unpacked(folder: Path) -> bool:
    return (folder / "wnids.txt").is_file()


def _in_class(folder: Path, name: str, label: int) -> Iterator[Sample]:
    pictures = folder / "train" / name / "images"
    if not pictures.is_dir():
        raise DataError(f"{pictures}: no such folder; unpack {SITE} again")
    yield from ((str(path), label) for path in sorted(pictures.iterdir()))


def _tested(folder: Path, classes: Mapping[str, int]) -> Iterator[Sample]:
    """Yield the pictures of val, whose classes stand in a file of tab-separated lines."""
    listed = folder / "val_annotations.txt"
    if not listed.is_file():
        raise DataError(f"{listed}: no such file; unpack {SITE} again")
    for number, line in enumerate(listed.read_text(encoding="utf-8").splitlines(), start=1):
        picture, name = (*line.split("\t"), "")[:2]
        if name not in classes:
            raise DataError(
                f"{listed}:{number}: must hold a picture and a class of wnids.txt, got {line!r}; "
                f"unpack {SITE} again"
            )
        yield str(folder / "images" / picture), classes[name]
