"""Pictures as addresses that hold the picture itself."""

import base64
import io
import re
from pathlib import Path

import torch
from matplotlib.image import imsave
from PIL import Image
from torch import Tensor

from simulations.attack.backdoor import Backdoor

LEAST_SIDE = 96
"""Pixels of a shown picture's side: small images are enlarged, each pixel a square."""


def as_address(image: Tensor) -> str:
    """Return an image (C, H, W) in [0, 1] as a data address; other than three channels are mean."""
    image = image.detach().cpu().float().clamp(0, 1)
    if image.shape[0] != 3:
        image = image.mean(0, keepdim=True).expand(3, -1, -1)
    factor = max(1, LEAST_SIDE // image.shape[-1])
    enlarged = image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    out = io.BytesIO()
    imsave(out, enlarged.permute(1, 2, 0).numpy(), format="png")
    return _address(out.getvalue())


def file_as_address(path: Path) -> str:
    """Return a PNG file as a data address."""
    return _address(path.read_bytes())


def told_of(path: Path) -> str:
    """Return what a PNG file says of itself, or else its name in words."""
    with Image.open(path) as picture:
        title = str(picture.info.get("Title", path.stem.replace("_", " ")))
    return re.sub(r"^\d+ ", "", title)


def trigger_on_grey(backdoor: Backdoor, input_shape: tuple[int, int, int]) -> Tensor:
    """Return what the true trigger does to a picture that is a ramp from dark to light."""
    ramp = torch.linspace(0.25, 0.75, input_shape[2]).expand(1, *input_shape)
    return backdoor.trigger.stamp(ramp.clone())[0]


def _address(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
