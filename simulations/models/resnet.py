"""CIFAR-style residual networks."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from fl_defense.validation import require_at_least, require_declared
from simulations.models.base import Norm, norm_layer


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """CIFAR-style residual network: 3x3 stem, no pooling, four stages (He et al., CVPR 2016).

    Example:
        >>> import torch
        >>> ResNet(depth=10, width=4).build((3, 32, 32), 10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    depth: Literal[10, 18] = 18
    """Number of weighted layers: 10 (one basic block per stage) or 18 (two)."""
    width: int = 64
    """Channels of the first stage; doubled in each later one."""
    norm: Norm = "batch"
    """Normalisation beside each convolution: batch, group or none."""
    pre_activation: bool = False
    """Normalise and activate before each convolution (He et al., ECCV 2016) instead of after it."""

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, width=1)

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network for inputs of at least 8x8 pixels."""
        block_type = _PreActivationBlock if self.pre_activation else _BasicBlock
        blocks_per_stage = {10: 1, 18: 2}[self.depth]
        stem = nn.Conv2d(input_shape[0], self.width, 3, padding=1, bias=self.norm == "none")
        blocks: list[nn.Module] = []
        channels = self.width
        for stage in range(4):
            out_channels = self.width * 2**stage
            for block in range(blocks_per_stage):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(block_type(channels, out_channels, stride, self.norm))
                channels = out_channels
        activate = [
            norm_layer(self.norm, channels if self.pre_activation else self.width),
            nn.ReLU(inplace=True),
        ]
        body = [*blocks, *activate] if self.pre_activation else [*activate, *blocks]
        return nn.Sequential(
            stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
        )


class _BasicBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias),
            norm_layer(norm, out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias),
            norm_layer(norm, out_channels),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=bias),
                norm_layer(norm, out_channels),
            )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.activation(self.residual(features) + self.shortcut(features))
        return out


class _PreActivationBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"
        # Not in place: an identity shortcut still needs what comes in.
        self.before = nn.Sequential(norm_layer(norm, in_channels), nn.ReLU())
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias),
            norm_layer(norm, out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias),
        )
        self.projects = stride != 1 or in_channels != out_channels
        if self.projects:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        activated = self.before(features)
        shortcut = self.shortcut(activated) if self.projects else features
        out: Tensor = self.residual(activated) + shortcut
        return out
