"""The contract of an architecture, and the normalisation that the shipped ones share."""

from typing import Literal, Protocol

from torch import nn

Norm = Literal["batch", "group", "none"]


class Architecture(Protocol):
    """Builds a freshly initialised network for a data set.

    Example:
        >>> from simulations.models import MODELS
        >>> network = MODELS["small-cnn"]().build((1, 16, 16), 10)
        >>> isinstance(network, nn.Module)
        True
    """

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return a network that maps inputs (B, *input_shape) to logits (B, num_classes)."""


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """Return the normalisation of a map with so many channels.

    Example:
        >>> norm_layer("group", 16).num_groups
        8
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(8 if channels % 8 == 0 else 1, channels)
    return nn.Identity()
