"""Networks that invent images and patches; shared by the methods that play against a generator."""

from torch import Tensor, nn

SMALLEST_GRIDS = (5, 6, 7, 8)
"""Side of the grid that a generator starts from before it doubles it (DHBE's code: 5 to 8)."""


def starting_grid(side: int) -> tuple[int, int]:
    """Return (side of the first grid, number of doublings) whose last grid is >= `side`.

    Exact where side = grid * 2^n with a grid in 5..8 (28 = 7*4, 32 = 8*4, 16 = 8*2); other sides
    take the smallest larger one and are cut to size. Sides up to 8 need no doubling.
    """
    if side <= SMALLEST_GRIDS[-1]:
        return side, 0
    doublings = 0
    while SMALLEST_GRIDS[-1] * 2**doublings < side:
        doublings += 1
    return -(-side // 2**doublings), doublings


class _GrowingGrid(nn.Module):
    """Latent vector -> feature grid: linear layer, then nearest up-sampling and convolutions."""

    def __init__(self, latent_size: int, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.grid, doublings = starting_grid(side)
        self.width = width if doublings == 0 else 2 * width
        self.project = nn.Linear(latent_size, self.width * self.grid**2)
        layers: list[nn.Module] = [nn.BatchNorm2d(self.width)]
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
        features: Tensor = self.grow(
            self.project(latents).view(-1, self.width, self.grid, self.grid)
        )
        return features[:, :, : self.side, : self.side]


class ImageGenerator(nn.Module):
    """Latent (B, latent_size) -> network inputs (B, C, side, side), cut to (C, H, W).

    The last BatchNorm has no affine part: each channel of a batch has zero mean and unit variance,
    which is what normalised images have (DHBE, image generator).
    """

    def __init__(self, latent_size: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, self.height, self.image_width = shape
        self.latent_size = latent_size
        self.grid = _GrowingGrid(latent_size, width, max(self.height, self.image_width))
        self.to_image = nn.Conv2d(width, channels, 3, padding=1)
        self.normalize = nn.BatchNorm2d(channels, affine=False)

    def forward(self, latents: Tensor) -> Tensor:
        features = self.grid(latents)[:, :, : self.height, : self.image_width]
        inputs: Tensor = self.normalize(self.to_image(features).tanh())
        return inputs


class PatchGenerator(nn.Module):
    """Latent (B, latent_size) -> patches (B, C, side, side) in (-1, 1), added to [0, 1] pixels.

    Tanh stands last, after the BatchNorm without affine part (DHBE, trigger generator).
    """

    def __init__(self, latent_size: int, width: int, channels: int, side: int) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.grid = _GrowingGrid(latent_size, width, side)
        self.to_patch = nn.Conv2d(width, channels, 3, padding=1)
        self.normalize = nn.BatchNorm2d(channels, affine=False)

    def forward(self, latents: Tensor) -> Tensor:
        patches: Tensor = self.normalize(self.to_patch(self.grid(latents))).tanh()
        return patches
