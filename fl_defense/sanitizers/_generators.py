"""What DHBE and DeepSanitizer share: networks that generate images and patches, and training."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fl_defense.model.spec import Pixels

LARGEST_GRID = 8
"""Side from which a generator has to double its grid (DHBE's code starts from 5 to 8)."""


def starting_grid(side: int) -> tuple[int, int]:
    """Return (side of the first grid, number of doublings) whose last grid is >= `side`.

    Exact where side = grid * 2^n with a grid in 5..8 (28 = 7*4, 32 = 8*4, 16 = 8*2); other sides
    take the smallest larger one and are cut to size. Sides up to 8 need no doubling.
    """
    doublings = 0
    while LARGEST_GRID * 2**doublings < side:
        doublings += 1
    return -(-side // 2**doublings), doublings


class Generator(nn.Module):
    """A network from random latents to images; `sample` draws the latents."""

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.latent_size = latent_size

    def sample(self, num: int) -> Tensor:
        """Generate from `num` fresh standard normal latents."""
        device = next(self.parameters()).device
        generated: Tensor = self(torch.randn(num, self.latent_size, device=device))
        return generated


class ImageGenerator(Generator):
    """Latents (B, latent_size) -> network inputs (B, C, H, W).

    The last BatchNorm has no affine part: each channel of a batch has zero mean and unit variance,
    which is what normalised images have (DHBE, image generator).
    """

    def __init__(self, latent_size: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__(latent_size)
        channels, self.height, self.image_width = shape
        self.grid = _GrowingGrid(latent_size, width, max(self.height, self.image_width))
        self.to_image = nn.Conv2d(width, channels, 3, padding=1)
        self.normalize = nn.BatchNorm2d(channels, affine=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Generate from given latents."""
        features = self.grid(latents)[:, :, : self.height, : self.image_width]
        inputs: Tensor = self.normalize(self.to_image(features).tanh())
        return inputs


class PatchGenerator(Generator):
    """Latents (B, latent_size) -> patches (B, C, side, side) in (-1, 1), to be added to pixels.

    Tanh stands last, after the BatchNorm without affine part (DHBE, trigger generator).
    """

    def __init__(self, latent_size: int, width: int, channels: int, side: int) -> None:
        super().__init__(latent_size)
        self.grid = _GrowingGrid(latent_size, width, side)
        self.to_patch = nn.Conv2d(width, channels, 3, padding=1)
        self.normalize = nn.BatchNorm2d(channels, affine=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Generate from given latents."""
        patches: Tensor = self.normalize(self.to_patch(self.grid(latents))).tanh()
        return patches


AnyGenerator = TypeVar("AnyGenerator", bound=Generator)


class TrainedGenerator(Generic[AnyGenerator]):
    """A generator with its Adam optimiser; both can be carried to the next round."""

    def __init__(
        self,
        network: AnyGenerator,
        lr: float,
        device: torch.device,
        milestones: Sequence[int] = (),
    ) -> None:
        """Make the optimiser.

        Args:
            network: the generator; moved to `device`.
            lr: learning rate of Adam.
            device: where to train.
            milestones: steps after which the learning rate falls to a tenth of what it was.
        """
        self.network = network.to(device)
        self._lr = lr
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr)
        self._schedule = torch.optim.lr_scheduler.MultiStepLR(self._optimizer, list(milestones))

    def sample(self, num: int) -> Tensor:
        """Generate from `num` fresh latents."""
        return self.network.sample(num)

    def descend(self, loss: Tensor) -> None:
        """Take one step down `loss`."""
        self.zero_grad()
        loss.backward()
        self.step()

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""
        self._optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Take one step along the gradients that a backward pass has left."""
        self._optimizer.step()
        self._schedule.step()

    def state(self) -> dict[str, Any]:
        """Return what `load` takes."""
        return copy.deepcopy(
            {"network": self.network.state_dict(), "optimizer": self._optimizer.state_dict()}
        )

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier state."""
        # A copy: optimisers go on writing into the tensors that they are given.
        state = copy.deepcopy(dict(state))
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        # Every round runs through the schedule anew.
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr


def one_cycle(
    optimizer: torch.optim.Optimizer, peak: float, steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Return the schedule of a learning rate that rises to `peak` for a tenth of the steps."""
    # The rise needs more than one step: torch divides by its length.
    rise = max(0.1, 2 / (steps + 1))
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=steps + 1, pct_start=rise, cycle_momentum=False
    )


def add_patches(
    inputs: Tensor, patches: Tensor, pixels: Pixels, *, shared: bool, clip: bool = True
) -> Tensor:
    """Add patches to normalised inputs (B, C, H, W) in [0, 1] pixel space.

    Args:
        inputs: normalised.
        patches: (B, C, p, p).
        pixels: normalisation of the inputs.
        shared: one place for the whole batch, or one per image.
        clip: cut pixels to [0, 1].
    """
    height, width = inputs.shape[2:]
    images = pixels.denormalize(inputs)
    images = images + place_patches(patches, (height, width), shared=shared)
    return pixels.normalize(images.clamp(0, 1) if clip else images)


def place_patches(patches: Tensor, shape: tuple[int, int], *, shared: bool) -> Tensor:
    """Put each patch (B, C, p, p) on a zero image (B, C, H, W) at a uniformly random place.

    Args:
        patches: what to place.
        shape: height and width of the images.
        shared: one place for the whole batch, or one per image.
    """
    num, _, side, _ = patches.shape
    draws = 1 if shared else num
    rows, columns = (_places(side, size, draws, patches) for size in shape)
    placed: Tensor = rows[:, None] @ patches @ columns[:, None].mT
    return placed


def _places(side: int, size: int, draws: int, like: Tensor) -> Tensor:
    """Return one-hot matrices (draws, size, side) that move a side of a patch to a random place."""
    first = torch.randint(size - side + 1, (draws, 1, 1), device=like.device)
    rows, of_patch = (torch.arange(end, device=like.device) for end in (size, side))
    return (rows[:, None] - first == of_patch).to(like.dtype)


class _GrowingGrid(nn.Module):
    """Latents -> features (B, width, side, side): linear layer, then up-sampling convolutions."""

    def __init__(self, latent_size: int, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.first_side, doublings = starting_grid(side)
        self.first_width = width if doublings == 0 else 2 * width
        self.project = nn.Linear(latent_size, self.first_width * self.first_side**2)
        layers: list[nn.Module] = [nn.BatchNorm2d(self.first_width)]
        for step in range(doublings):
            out = width if step == doublings - 1 else 2 * width
            layers += [
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(2 * width, out, 3, padding=1),
                nn.BatchNorm2d(out),
                nn.LeakyReLU(0.2),
            ]
        self.grow = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        first = self.project(latents).view(-1, self.first_width, self.first_side, self.first_side)
        features: Tensor = self.grow(first)
        return features[:, :, : self.side, : self.side]
