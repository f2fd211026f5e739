"""Networks that a scenario can name. A network is one file; `base` is the contract."""

from simulations.models.base import Architecture
from simulations.models.resnet import ResNet
from simulations.models.small_cnn import SmallCNN

MODELS: dict[str, type[Architecture]] = {"small-cnn": SmallCNN, "resnet": ResNet}
"""Networks by the name that a scenario gives; a name with a colon is a `Factory`."""

__all__ = ["MODELS", "Architecture", "ResNet", "SmallCNN"]
