"""Random changes of training images, each image by itself.

The transforms of torchvision draw once for all images of a batch, so each image is passed by
itself. Shift and mirroring, which most papers use, are done for a whole batch at once: a quarter of
the time on a CPU, and far fewer launches on a GPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.validation import one_line

Augmentation = Literal["none", "crop", "flip", "crop-flip"]

CROP_PADDING = 4
"""Pixels by which the crop may shift an image."""


def augment(images: Tensor, how: Augmentation, draws: torch.Generator) -> Tensor:
    """Shift each image by a random offset, and mirror half of them.

    Args:
        images: (N, C, H, W).
        how: crop shifts by up to 4 pixels, black comes in; flip mirrors left and right.
        draws: on the CPU: the same on every device.

    Returns:
        Images of the same shape.

    Example:
        >>> images = torch.arange(4.0).reshape(1, 1, 1, 4).expand(8, -1, -1, -1)
        >>> changed = augment(images, "flip", torch.Generator().manual_seed(0))
        >>> sorted({tuple(image.flatten().tolist()) for image in changed})
        [(0.0, 1.0, 2.0, 3.0), (3.0, 2.0, 1.0, 0.0)]
    """
    if how == "none":
        return images
    num, _, height, width = images.shape
    rows = torch.arange(height, device=images.device).expand(num, -1)
    columns = torch.arange(width, device=images.device).expand(num, -1)
    if how in ("crop", "crop-flip"):
        offsets = torch.randint(2 * CROP_PADDING + 1, (2, num), generator=draws).to(images.device)
        images = functional.pad(images, [CROP_PADDING] * 4)
        rows, columns = rows + offsets[0][:, None], columns + offsets[1][:, None]
    if how in ("flip", "crop-flip"):
        mirrored = torch.rand(num, generator=draws).to(images.device) < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    index = torch.arange(num, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


@dataclass(frozen=True, kw_only=True)
class Transform:
    """A random transform of torchvision.transforms.v2.

    Example:
        >>> turned = Transform(name="RandomRotation", arguments={"degrees": 15})
        >>> type(turned.build()).__name__
        'RandomRotation'
    """

    name: str
    """A class of torchvision.transforms.v2, such as RandomRotation or ColorJitter."""
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What it is made with, by name."""

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> nn.Module:
        """Return torchvision's object.

        Raises:
            ValueError: if torchvision has none of that name, or refuses the arguments.
        """
        from torchvision.transforms import v2

        kind = getattr(v2, self.name, None)
        if not (isinstance(kind, type) and issubclass(kind, v2.Transform)):
            raise ValueError(
                f"name must be a transform of torchvision.transforms.v2, got {self.name!r}; "
                "try RandomRotation, ColorJitter or RandomErasing"
            )
        try:
            made: nn.Module = kind(**self.arguments)
            with torch.random.fork_rng(devices=[]):
                made(torch.zeros(3, 32, 32))
        except Exception as error:  # torchvision raises what its transforms happen to meet
            raise ValueError(
                f"arguments of {self.name} are refused ({one_line(error)}); change them"
            ) from error
        return made


def transformed(images: Tensor, transforms: Sequence[nn.Module], draws: torch.Generator) -> Tensor:
    """Pass each image through transforms that draw from torch's global generators.

    Args:
        images: (N, C, H, W) in [0, 1].
        transforms: in order.
        draws: seeds the global generators for this call; the CPU's is given back as it was.

    Returns:
        Images of the same shape.

    Raises:
        ValueError: if a transform gives another shape.

    Example:
        >>> inverted = Transform(name="RandomInvert", arguments={"p": 1}).build()
        >>> transformed(torch.zeros(1, 1, 1, 2), [inverted], torch.Generator()).tolist()
        [[[[1.0, 1.0]]]]
    """
    if not transforms:
        return images
    seed = int(torch.randint(2**62, (), generator=draws))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = [nn.Sequential(*transforms)(image) for image in images]
    if any(image.shape != images.shape[1:] for image in changed):
        (shape,) = {tuple(image.shape) for image in changed} - {tuple(images.shape[1:])}
        raise ValueError(f"must keep the shape {tuple(images.shape[1:])}, got {shape}")
    return torch.stack(changed)
