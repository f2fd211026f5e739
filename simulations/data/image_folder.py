"""Anybody's pictures, one folder per class."""

from dataclasses import dataclass
from pathlib import Path

from fl_defense.model.spec import Pixels
from fl_defense.validation import require_at_least
from simulations.data.base import DataError, ImageData, ImageSource
from simulations.data.readers import read_pictures


@dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageSource):
    """Anybody's pictures: ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg, resized.

    Example:
        >>> ImageFolder(root="signs", size=32, channels=1, mean=(0.5,), std=(0.25,)).input_shape
        (1, 32, 32)
    """

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

    @property
    def folder(self) -> Path:
        """Folder with train/ and test/."""
        return Path(self.root)

    def shares_images_with(self, source: object) -> bool:
        """Tell whether another source reads pictures of the same folder."""
        return self.shares_folder_with(source)

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
