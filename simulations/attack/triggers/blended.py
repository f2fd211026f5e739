"""Noise or a picture mixed into the whole image."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Blended:
    """The same noise or picture mixed into the whole image (Chen et al., 2017).

    Example:
        >>> Blended(opacity=0.5).stamp(torch.zeros(1, 1, 8, 8)).max() <= 0.5
        tensor(True)
    """

    opacity: float = 0.2
    """Weight of the noise or picture, in (0, 1]; the image keeps the rest."""
    picture: str | None = None
    """Picture file, stretched to the size of the images; null: uniform noise."""
    seed: int = 0
    """Draws the noise; without meaning for a picture."""

    def __post_init__(self) -> None:
        if not 0 < self.opacity <= 1:
            raise ValueError(f"opacity must be in (0, 1], got {self.opacity}")

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if the picture cannot be read for images of (C, H, W)."""
        self._blended_in(input_shape)

    def stamp(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [0, 1] mixed with the noise or picture."""
        shape = (images.shape[1], images.shape[2], images.shape[3])
        return torch.lerp(images, self._blended_in(shape).to(images), self.opacity)

    def _blended_in(self, input_shape: tuple[int, int, int]) -> Tensor:
        if self.picture is not None:
            return _read_picture(self.picture, input_shape)
        return torch.rand(input_shape, generator=torch.Generator().manual_seed(self.seed))


@lru_cache(maxsize=8)
def _read_picture(path: str, input_shape: tuple[int, int, int]) -> Tensor:
    """Read a picture file as (C, H, W) in [0, 1], gray if C is 1."""
    from PIL import Image, UnidentifiedImageError

    channels, height, width = input_shape
    if channels not in (1, 3):
        raise ValueError(f"picture needs images of 1 or 3 channels, got {channels}; leave it out")
    try:
        with Image.open(Path(path)) as picture:
            converted = picture.convert("RGB" if channels == 3 else "L").resize((width, height))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"picture {path} cannot be read ({error}); name a picture file") from error
    flat = torch.frombuffer(bytearray(converted.tobytes()), dtype=torch.uint8)
    return flat.view(height, width, channels).permute(2, 0, 1).float() / 255
