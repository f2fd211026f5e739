"""Networks that people federate, beside those that the simulations ship."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt


@dataclass(frozen=True, kw_only=True)
class TemplateNet:
    """The network of Flower's PyTorch template: two convolutions, three linear layers, no norm."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network for inputs of at least 16x16 pixels."""
        channels, *sides = input_shape
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in sides)
        return nn.Sequential(
            *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(16 * rows * columns, 120), nn.ReLU()),
            *(nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, num_classes)),
        )


@dataclass(frozen=True, kw_only=True)
class MLP:
    """Two hidden layers on the pixels."""

    width: int = 256
    """Units of each hidden layer."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network."""
        pixels = input_shape[0] * input_shape[1] * input_shape[2]
        return nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(pixels, self.width), nn.ReLU()),
            *(nn.Linear(self.width, self.width), nn.ReLU()),
            nn.Linear(self.width, num_classes),
        )


@dataclass(frozen=True, kw_only=True)
class SmallViT:
    """A vision transformer with LayerNorm (Dosovitskiy et al., ICLR 2021), mean over tokens."""

    patch: int = 4
    """Side of a token's patch in pixels."""
    width: int = 64
    """Length of a token."""
    depth: int = 4
    """Encoder layers, of 4 heads each."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network for sides that the patch divides."""
        tokens = (input_shape[1] // self.patch) * (input_shape[2] // self.patch)
        layers = [
            nn.TransformerEncoderLayer(
                self.width, 4, 2 * self.width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(self.depth)
        ]
        return nn.Sequential(
            nn.Conv2d(input_shape[0], self.width, self.patch, self.patch),
            _Tokens(tokens, self.width),
            *layers,
            nn.LayerNorm(self.width),
            _Mean(),
            nn.Linear(self.width, num_classes),
        )


class _Tokens(nn.Module):
    """From maps (B, D, H, W) to tokens (B, H * W, D) that know their place."""

    def __init__(self, num: int, width: int) -> None:
        super().__init__()
        self.places = nn.Parameter(0.02 * torch.randn(1, num, width))

    def forward(self, maps: Tensor) -> Tensor:
        tokens: Tensor = maps.flatten(2).mT + self.places
        return tokens


class _Mean(nn.Module):
    """The mean of tokens (B, N, D)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


@dataclass(frozen=True, kw_only=True)
class Torchvision:
    """A network of torchvision with fresh weights."""

    name: str
    """As in `torchvision.models`."""
    group_norm: bool = False
    """GroupNorm of 32 groups instead of BatchNorm, where the network takes a `norm_layer`."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network; its first convolution takes the image's channels."""
        norm = {"norm_layer": _group_norm} if self.group_norm else {}
        model: nn.Module = models.get_model(
            self.name, weights=None, num_classes=num_classes, **norm
        )
        return _taking(model, input_shape[0])


@dataclass(frozen=True, kw_only=True)
class VGG:
    """The features of torchvision's vgg11_bn with one linear layer instead of its 120 M weights."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network for inputs of at least 32x32 pixels."""
        features = models.vgg11_bn(weights=None).features
        model = nn.Sequential(
            features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes)
        )
        return _taking(model, input_shape[0])


@dataclass(frozen=True, kw_only=True)
class SmallConvNeXt:
    """torchvision's ConvNeXt with three short stages."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network for sides that 16 divides."""
        stages = [CNBlockConfig(32, 64, 1), CNBlockConfig(64, 128, 1), CNBlockConfig(128, None, 2)]
        return _taking(ConvNeXt(stages, num_classes=num_classes), input_shape[0])


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(min(32, channels), channels)


def _taking(model: nn.Module, channels: int) -> nn.Module:
    """Give a model's first convolution so many input channels."""
    name, first = next(
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    )
    if first.in_channels != channels:
        parent, _, child = name.rpartition(".")
        fresh = nn.Conv2d(
            channels,
            first.out_channels,
            first.kernel_size,  # type: ignore[arg-type]
            first.stride,  # type: ignore[arg-type]
            first.padding,  # type: ignore[arg-type]
            bias=first.bias is not None,
        )
        setattr(model.get_submodule(parent), child, fresh)
    return model
