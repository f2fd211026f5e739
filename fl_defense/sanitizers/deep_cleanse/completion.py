"""Image completion: a network that paints what may have stood in a hole.

After Iizuka et al., "Globally and Locally Consistent Image Completion" (GLCIC), SIGGRAPH 2017,
sized to small images: `width` filters instead of 64, and dilations up to 4, for at 32x32 pixels the
bottleneck is 8x8 and larger dilations see nothing but padding. It is trained to reconstruct (the
paper's first phase); the adversarial phase makes texture that a viewer wants and a classifier of
small images does not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.progress import counted
from fl_defense.validation import require, require_at_least, require_declared


@dataclass(frozen=True, kw_only=True)
class TrainingHoles:
    """The holes that a completion network is trained to fill: rectangles and blobs in turns.

    Raises:
        ValueError: if a share is not in (0, 1], or the least is above the largest.

    Example:
        >>> TrainingHoles().draw(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 1, 32, 32])
    """

    sides: tuple[float, float] = (0.15, 0.5)
    """Least and largest side of a rectangle, as a share of the image's, in (0, 1]."""
    blob_share: float = 0.15
    """Largest share of the image that a blob covers, in (0, 1]; the least is a fifth of it."""
    blob_grid: int = 7
    """Side of the random grid that a blob is made from; Grad-CAM's maps look like it."""

    def __post_init__(self) -> None:
        require_declared(self)
        least, largest = self.sides
        require(0 < least <= largest <= 1, "sides", "ascending in (0, 1]", self.sides)
        require(0 < self.blob_share <= 1, "blob_share", "in (0, 1]", self.blob_share)
        require_at_least(self, blob_grid=2)

    def draw(self, images: Tensor) -> Tensor:
        """Return a hole (1, H, W) of ones per image (B, C, H, W)."""
        holes = torch.stack([self._rectangles(images), self._blobs(images)])  # (2, B, 1, H, W)
        kinds = torch.arange(len(images), device=images.device) % len(holes)
        return holes[kinds, torch.arange(len(images), device=images.device)]

    def _rectangles(self, images: Tensor) -> Tensor:
        num, device = len(images), images.device
        least, largest = self.sides
        inside = []
        for side in images.shape[2:]:
            share = least + (largest - least) * torch.rand(num, 1, device=device)
            length = (share * side).round().clamp_min(1)  # (B, 1)
            first = (torch.rand(num, 1, device=device) * (side - length + 1)).floor()  # (B, 1)
            places = torch.arange(side, device=device)
            inside.append((places >= first) & (places < first + length))
        return (inside[0][:, :, None] & inside[1][:, None, :])[:, None].float()

    def _blobs(self, images: Tensor) -> Tensor:
        num, device = len(images), images.device
        grid = torch.rand(num, 1, self.blob_grid, self.blob_grid, device=device)  # (B, 1, G, G)
        smooth = functional.interpolate(grid, images.shape[2:], mode="bilinear")  # (B, 1, H, W)
        share = self.blob_share * (0.2 + 0.8 * torch.rand(num, 1, device=device))
        ranks = smooth.flatten(1).argsort(dim=1, descending=True).argsort(dim=1)  # (B, H * W)
        return (ranks < share * ranks.shape[1]).float().view_as(smooth)


class CompletionNetwork(nn.Module):
    """Fills holes in images.

    Args:
        channels: of the images.
        width: filters of the first layer; the paper has 64.
        fill: value in [0, 1] per channel that stands in a hole before it is filled.
    """

    fill: Tensor

    def __init__(self, channels: int, width: int, fill: Tensor) -> None:
        super().__init__()
        self.register_buffer("fill", fill.expand(channels).reshape(1, channels, 1, 1).clone())
        wide, wider = 2 * width, 4 * width
        self.paint = nn.Sequential(
            *_layer(nn.Conv2d(channels + 1, width, 5, padding=2)),
            *_layer(nn.Conv2d(width, wide, 3, stride=2, padding=1)),
            *_layer(nn.Conv2d(wide, wide, 3, padding=1)),
            *_layer(nn.Conv2d(wide, wider, 3, stride=2, padding=1)),
            *_layer(nn.Conv2d(wider, wider, 3, padding=1)),
            *_layer(nn.Conv2d(wider, wider, 3, padding=2, dilation=2)),
            *_layer(nn.Conv2d(wider, wider, 3, padding=4, dilation=4)),
            *_layer(nn.Conv2d(wider, wider, 3, padding=1)),
            *_layer(nn.ConvTranspose2d(wider, wide, 4, stride=2, padding=1)),
            *_layer(nn.Conv2d(wide, wide, 3, padding=1)),
            *_layer(nn.ConvTranspose2d(wide, width, 4, stride=2, padding=1)),
            *_layer(nn.Conv2d(width, width, 3, padding=1)),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor, holes: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [0, 1] with the holes (B, 1, H, W), ones in zeros, filled.

        Outside the holes the images stay as they are.
        """
        height, width = images.shape[2:]
        emptied = images * (1 - holes) + self.fill * holes  # (B, C, H, W)
        painted = self.paint(torch.cat([emptied, holes], dim=1))[..., :height, :width]
        filled: Tensor = emptied * (1 - holes) + painted * holes
        return filled


def train_completion(
    network: CompletionNetwork,
    images: Tensor,
    holes_of: TrainingHoles,
    *,
    steps: int,
    batch_size: int,
    lr: float,
) -> float:
    """Train a network in place to fill random holes in images in [0, 1]; return the last loss.

    The loss is the mean squared error inside the holes. The network is left in eval mode.
    """
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1)
    loss = torch.zeros(())
    for _ in counted("learning to fill holes", range(steps)):
        batch = images[torch.randint(len(images), (batch_size,), device=images.device)]
        holes = holes_of.draw(batch)  # (B, 1, H, W)
        errors = (network(batch, holes) - batch).square() * holes  # (B, C, H, W)
        loss = errors.sum() / (holes.sum() * images.shape[1])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    return loss.item()


def _layer(convolution: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, ...]:
    """GLCIC's order: BatchNorm behind the activation."""
    return convolution, nn.ReLU(), nn.BatchNorm2d(convolution.out_channels)
