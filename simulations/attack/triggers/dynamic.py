"""A patch whose place depends on the image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fl_defense.validation import require_at_least, require_share


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    """A small square around the brightest row and column of each image (input-dependent).

    No single place or pattern of the whole image is the trigger: it is outside what searches for
    one patch or one distortion look for.

    Example:
        >>> image = torch.zeros(1, 1, 5, 5)
        >>> image[0, 0, 2, 2] = 1.0
        >>> Dynamic(size=1, brightness=0.5).stamp(image)[0, 0, 2, 2]
        tensor(0.5000)
    """

    size: int = 3
    """Height and width in pixels."""
    brightness: float = 0.0
    """Of the square, in [0, 1], in every channel; dark, since it lies where images are bright."""

    def __post_init__(self) -> None:
        require_at_least(self, size=1)
        require_share(self, "brightness")

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if the square is larger than images of (C, H, W)."""
        if self.size > min(input_shape[1:]):
            height, width = input_shape[1:]
            raise ValueError(f"size {self.size} is larger than a {height}x{width} image; lower it")

    def stamp(self, images: Tensor) -> Tensor:
        """Return copies of images (B, C, H, W) in [0, 1] with the square on them."""
        self.check((images.shape[1], images.shape[2], images.shape[3]))
        gray = images.mean(1)
        covers = self._cover(gray.sum(2))[:, :, None] & self._cover(gray.sum(1))[:, None, :]
        return torch.where(covers[:, None], self.brightness, images)

    def _cover(self, light: Tensor) -> Tensor:
        """Return (B, n) booleans: the rows or columns around the brightest of (B, n)."""
        length = light.shape[1]
        start = (light.argmax(1) - self.size // 2).clamp(0, length - self.size)[:, None]
        places = torch.arange(length, device=light.device)
        return (places >= start) & (places < start + self.size)
