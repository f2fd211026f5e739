"""Images that a server may own without any client's data: procedural textures.

They stand in for real images where a defense must ask a model something: 1/f noise has the power
spectrum of photographs, and the dead-leaves model (random shapes that cover one another) has their
edges (Lee, Mumford and Huang, IJCV 2001).
"""

import math

import torch
from torch import Tensor


def textures(
    num: int,
    shape: tuple[int, int, int],
    *,
    generator: torch.Generator | None = None,
    num_shapes: int = 8,
) -> Tensor:
    """Draw `num` texture images in [0, 1], shape (num, C, H, W), on the CPU.

    Args:
        num: number of images.
        shape: channels, height, width.
        generator: source of randomness; the global one if None.
        num_shapes: ellipses and rectangles laid over the noise of each image.
    """
    images = _colored_noise(num, shape, generator)
    for _ in range(num_shapes):
        images = _cover_with_shape(images, generator)
    return images


def _colored_noise(
    num: int, shape: tuple[int, int, int], generator: torch.Generator | None
) -> Tensor:
    """1/f^a noise, exponent drawn per image from [0.7, 2.2], stretched to [0, 1]."""
    channels, height, width = shape
    exponent = 0.7 + 1.5 * torch.rand(num, 1, 1, 1, generator=generator)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :])
    frequency = frequency.clamp_min(1 / max(height, width))
    white = torch.fft.rfft2(torch.randn(num, channels, height, width, generator=generator))
    noise = torch.fft.irfft2(white * frequency.pow(-exponent), s=(height, width))
    low, high = noise.amin((2, 3), keepdim=True), noise.amax((2, 3), keepdim=True)
    stretched: Tensor = (noise - low) / (high - low).clamp_min(1e-8)
    return stretched


def _cover_with_shape(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Lay one random ellipse or rectangle of random color over each image."""
    num, channels, height, width = images.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num, 1, 1, generator=generator)

    rows = torch.linspace(0, 1, height)[None, :, None] - uniform(0, 1)
    columns = torch.linspace(0, 1, width)[None, None, :] - uniform(0, 1)
    angle = uniform(0, math.pi)
    along = (rows * angle.cos() + columns * angle.sin()) / uniform(0.05, 0.35)
    across = (columns * angle.cos() - rows * angle.sin()) / uniform(0.05, 0.35)
    ellipse = along.square() + across.square() < 1
    rectangle = torch.maximum(along.abs(), across.abs()) < 1
    is_ellipse = uniform(0, 1) < 0.5
    inside = torch.where(is_ellipse, ellipse, rectangle)[:, None]
    color = torch.rand(num, channels, 1, 1, generator=generator)
    return torch.where(inside, color, images)
