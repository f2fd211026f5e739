"""Pictures in a folder as surrogate images: whatever a server owns that is no client's."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

SUFFIXES = frozenset(Image.registered_extensions())


@dataclass(frozen=True, kw_only=True)
class PictureFolder:
    """Pictures anywhere below a folder, resized; no labels are needed.

    Example:
        >>> Image.new("RGB", (40, 30), "red").save("one.png")
        >>> PictureFolder(root=".").draw(2, (3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    root: str
    """Folder with the pictures."""

    def draw(self, num: int, shape: tuple[int, int, int]) -> Tensor:
        """Return `num` pictures drawn at random, each once as long as there are enough.

        Raises:
            ValueError: if the folder holds no picture, or one cannot be read.
        """
        below = Path(self.root).rglob("*")
        paths = sorted(path for path in below if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise ValueError(f"surrogate: {self.root}: must hold pictures, got none; fill it")
        rounds = -(-num // len(paths))
        order = torch.cat([torch.randperm(len(paths)) for _ in range(rounds)])[:num]
        return torch.stack([_read(paths[index], shape) for index in order.tolist()])


def fit(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Give images (B, C, H, W) in [0, 1] the channels, height and width that are asked for."""
    channels, height, width = shape
    if images.shape[2:] != (height, width):
        images = functional.interpolate(
            images, (height, width), mode="bilinear", antialias=True, align_corners=False
        )
    if images.shape[1] == channels:
        return images
    return images.mean(1, keepdim=True).expand(-1, channels, -1, -1)


def _read(path: Path, shape: tuple[int, int, int]) -> Tensor:
    try:
        with Image.open(path) as picture:
            pixels = np.array(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"surrogate: {path}: cannot be read ({error}); remove it") from error
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return fit(image[None], shape)[0]
