"""A small convolutional network."""

from dataclasses import dataclass

from torch import nn

from fl_defense.validation import require_at_least, require_declared
from simulations.models.base import Norm, norm_layer


@dataclass(frozen=True, kw_only=True)
class SmallCNN:
    """Three 3x3 convolutions with max-pooling, global average pooling, one linear layer.

    Example:
        >>> import torch
        >>> SmallCNN(width=4).build((1, 16, 16), 10)(torch.rand(2, 1, 16, 16)).shape
        torch.Size([2, 10])
    """

    width: int = 32
    """Channels of the first convolution; doubled twice."""
    norm: Norm = "batch"
    """Normalisation after each convolution: batch, group or none."""

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, width=1)

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network for inputs of at least 8x8 pixels."""
        channels = (input_shape[0], self.width, 2 * self.width, 4 * self.width)
        layers: list[nn.Module] = []
        for step in range(3):
            layers += [
                nn.Conv2d(
                    channels[step], channels[step + 1], 3, padding=1, bias=self.norm == "none"
                ),
                norm_layer(self.norm, channels[step + 1]),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2) if step < 2 else nn.AdaptiveAvgPool2d(1),
            ]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1], num_classes))
