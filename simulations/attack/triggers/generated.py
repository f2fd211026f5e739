"""A trigger that a small network makes for each image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.validation import require_at_least, require_positive, require_share

AT_ONCE = 256
"""Images per forward pass: a whole test set's activations would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Noise for each image, by a network that looks at it, bounded pixel by pixel.

    The attack `iba` trains the network; before, its weights are drawn, alike in every run.

    Example:
        >>> images = torch.full((2, 1, 8, 8), 0.5)
        >>> changed = (Generated(epsilon=0.1).stamp(images) - images).abs().max()
        >>> bool(0 < changed <= 0.1)
        True
    """

    epsilon: float = 0.3
    """Largest change of a pixel, in brightness of (0, 1]."""
    width: int = 8
    """Channels of the network's first layer."""

    def __post_init__(self) -> None:
        require_positive(self, "epsilon")
        require_share(self, "epsilon")
        require_at_least(self, width=1)

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise nothing: the network takes images of any size."""

    def network(self, channels: int) -> nn.Module:
        """Return the network for images of so many channels, with weights drawn from a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _Generator(channels, self.width)

    def stamp(self, images: Tensor) -> Tensor:
        """Return copies of images (B, C, H, W) in [0, 1] with the untrained network's noise."""
        return self.stamp_by(self.network(images.shape[1]), images, self.epsilon)

    @torch.no_grad()
    def stamp_by(self, network: nn.Module, images: Tensor, epsilon: float) -> Tensor:
        """Return copies of images (B, C, H, W) in [0, 1] with a network's noise."""
        network = network.to(images.device)
        some = [add_noise(network, part, epsilon) for part in images.split(AT_ONCE)]
        return torch.cat(some) if some else images.clone()


def add_noise(network: nn.Module, images: Tensor, epsilon: float) -> Tensor:
    """Return images plus the network's answer in [-epsilon, epsilon], cut to [0, 1]."""
    noise: Tensor = network(images)
    return (images + epsilon * noise).clamp(0, 1)


class _Generator(nn.Module):
    """A U-Net of one step down and up: images (B, C, H, W) to noise of that shape in [-1, 1]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(channels, width, 3, padding=1)
        self.far = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.both = nn.Conv2d(3 * width, width, 3, padding=1)
        self.out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        near = functional.relu(self.near(images - 0.5))
        far = functional.relu(self.far(near))
        wide = functional.interpolate(far, near.shape[2:], mode="nearest")
        both = functional.relu(self.both(torch.cat([near, wide], 1)))
        return torch.tanh(self.out(both))
