"""The generators of DHBE's paper: their settings, and what is made of these."""

from dataclasses import dataclass
from typing import Literal

import torch

from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers._generators import ImageGenerator, PatchGenerator, TrainedGenerator
from fl_defense.validation import require_at_least, require_declared, require_positive


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """The paper's generators, used where images or patches are generated.

    Example:
        >>> from fl_defense import DHBE
        >>> settings = DHBE(patch_search="generator", generators=GeneratorSettings(width=8))
        >>> settings.generators.latent_size
        64
    """

    lr: float = 1e-2
    """Adam's learning rate for the image generator and the patch generator."""
    latent_size: int = 64
    """Length of the generators' random input."""
    width: int = 16
    """Filters of the generators' last convolution (ngf)."""
    total_variation_weight: float = 1e-4
    """Weight of the image generator's smoothness (w2), for a batch of 256 3x32x32 images."""
    patch_location: Literal["per-image", "shared"] = "per-image"
    """Place a generated patch anew on each image, or once per batch as in the paper."""
    clip_pixels: bool = True
    """Clip images with generated patches to [0, 1]; the paper does not."""

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, latent_size=1, width=1, total_variation_weight=0)
        require_positive(self, "lr")

    def patches(
        self, spec: ModelSpec, side: int, device: torch.device, milestones: list[int]
    ) -> TrainedGenerator[PatchGenerator]:
        """Return an untrained generator of patches of so many pixels a side."""
        network = PatchGenerator(self.latent_size, self.width, spec.input_shape[0], side)
        return TrainedGenerator(network, self.lr, device, milestones)

    def images(
        self, spec: ModelSpec, device: torch.device, milestones: list[int]
    ) -> TrainedGenerator[ImageGenerator]:
        """Return an untrained generator of network inputs."""
        network = ImageGenerator(self.latent_size, self.width, spec.input_shape)
        return TrainedGenerator(network, self.lr, device, milestones)
