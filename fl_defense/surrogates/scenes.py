"""Images that a server may own without any client's data: procedural scenes.

They stand in for real images where a defense must ask a model something. 1/f noise has the power
spectrum of photographs, the dead-leaves model (random shapes that cover one another) has their
edges (Lee, Mumford and Huang, IJCV 2001), plain backgrounds and strokes are what signs, clothes and
handwriting are made of. Scenes differ widely; `most_familiar` picks those that resemble what a
given model was trained on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_defense.model.batches import CHUNK
from fl_defense.progress import counted

MAX_SHAPES = 6
"""Most ellipses and rectangles in one scene."""
MAX_STROKES = 4
"""Most curved strokes in one scene."""
POINTS_PER_STROKE = 16
"""Points on a stroke's curve to which a pixel's distance is measured."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Procedural scenes: no image of anybody's."""

    def draw(self, num: int, shape: tuple[int, int, int]) -> Tensor:
        """Draw `num` scenes."""
        return scenes(num, shape)


def scenes(
    num: int, shape: tuple[int, int, int], *, generator: torch.Generator | None = None
) -> Tensor:
    """Draw `num` images in [0, 1], shape (num, C, H, W), on the CPU.

    Half have a plain background, half of these black, and half have 1/f noise; over it come up to
    6 shapes and up to 4 strokes of random color.

    Args:
        num: number of images.
        shape: channels, height, width.
        generator: source of randomness; the global one if None.
    """
    channels = shape[0]
    plain = _uniform(generator, num, channels, 1, 1)
    plain = plain * (_uniform(generator, num, 1, 1, 1) < 0.5)
    is_plain = _uniform(generator, num, 1, 1, 1) < 0.5
    images = torch.where(is_plain, plain, _colored_noise(num, shape, generator))
    for what, draw, most in (("shapes", _shapes, MAX_SHAPES), ("strokes", _strokes, MAX_STROKES)):
        count = torch.randint(most + 1, (num,), generator=generator)
        for number in counted(f"drawing {what} of scenes", range(most)):
            masks, color = draw(num, generator), _uniform(generator, num, channels, 1, 1)
            # A few hundred at a time: the processor's cache holds them until they are done.
            for some in (number < count).nonzero()[:, 0].split(CHUNK):
                cover = masks(some, *shape[1:])
                images[some] = images[some] * (1 - cover) + color[some] * cover
    return images


def _colored_noise(
    num: int, shape: tuple[int, int, int], generator: torch.Generator | None
) -> Tensor:
    """1/f^a noise, exponent drawn per image from [0.7, 2.2], stretched to [0, 1]."""
    channels, height, width = shape
    exponent = 0.7 + 1.5 * _uniform(generator, num, 1, 1, 1)  # (N, 1, 1, 1)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :])
    frequency = frequency.clamp_min(1 / max(height, width))  # (H, W // 2 + 1)
    white = torch.fft.rfft2(torch.randn(num, channels, height, width, generator=generator))
    noise = torch.fft.irfft2(white * frequency.pow(-exponent), s=(height, width))  # (N, C, H, W)
    low, high = noise.amin((2, 3), keepdim=True), noise.amax((2, 3), keepdim=True)
    stretched: Tensor = (noise - low) / (high - low).clamp_min(1e-8)
    return stretched


Masks = Callable[[Tensor, int, int], Tensor]
"""From the indices (n,) of images, height and width to what covers them, (n, 1, H, W) in [0, 1]."""


def _shapes(num: int, generator: torch.Generator | None) -> Masks:
    """Draw one ellipse or rectangle per image."""
    centers, radii = _uniform(generator, num, 2), 0.05 + 0.3 * _uniform(generator, num, 2)
    angles = math.pi * _uniform(generator, num, 1, 1)  # (N, 1, 1)
    are_ellipses = _uniform(generator, num, 1, 1) < 0.5

    def masks(some: Tensor, height: int, width: int) -> Tensor:
        center, radius, angle = centers[some], radii[some], angles[some]
        rows = torch.linspace(0, 1, height)[None, :, None] - center[:, 0, None, None]  # (n, H, 1)
        columns = torch.linspace(0, 1, width)[None, None, :] - center[:, 1, None, None]  # (n, 1, W)
        along = (rows * angle.cos() + columns * angle.sin()) / radius[:, 0, None, None]  # (n, H, W)
        across = (columns * angle.cos() - rows * angle.sin()) / radius[:, 1, None, None]
        ellipse = along.square() + across.square() < 1
        rectangle = torch.maximum(along.abs(), across.abs()) < 1
        return torch.where(are_ellipses[some], ellipse, rectangle)[:, None].float()

    return masks


def _strokes(num: int, generator: torch.Generator | None) -> Masks:
    """Draw one quadratic Bezier curve per image, with soft edges."""
    start, bend, end = (0.1 + 0.8 * _uniform(generator, num, 1, 2) for _ in range(3))
    time = torch.linspace(0, 1, POINTS_PER_STROKE)[None, :, None]  # (1, P, 1)
    curves = (1 - time).square() * start + 2 * time * (1 - time) * bend + time.square() * end
    thickness = 0.03 + 0.07 * _uniform(generator, num, 1, 1)

    def masks(some: Tensor, height: int, width: int) -> Tensor:
        rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None, :]
        nearest = torch.full((len(some), height, width), math.inf)  # (n, H, W)
        for point in curves[some].unbind(1):
            squared = (rows - point[:, 0, None, None]).square()
            squared = squared + (columns - point[:, 1, None, None]).square()
            nearest = torch.minimum(nearest, squared)
        soft: Tensor = (thickness[some] - nearest.sqrt()) * max(height, width) + 0.5
        return soft.clamp(0, 1)[:, None]

    return masks


def _uniform(generator: torch.Generator | None, *size: int) -> Tensor:
    return torch.rand(*size, generator=generator)
