"""Networks that a scenario can name, and the door to anybody's own: "package.module:factory"."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from fl_defense.model_spec import one_line
from fl_defense.ranges import require_at_least, require_declared

Norm = Literal["batch", "group", "none"]


class Architecture(Protocol):
    """Builds a freshly initialised network for a data set."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return a network that maps inputs (B, *input_shape) to logits (B, num_classes)."""


@dataclass(frozen=True, kw_only=True)
class SmallCNN:
    """Three 3x3 convolutions with max-pooling, global average pooling, one linear layer."""

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
                _norm(self.norm, channels[step + 1]),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2) if step < 2 else nn.AdaptiveAvgPool2d(1),
            ]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1], num_classes))


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """CIFAR-style residual network: 3x3 stem, no pooling, four stages (He et al., CVPR 2016)."""

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
            _norm(self.norm, channels if self.pre_activation else self.width),
            nn.ReLU(inplace=True),
        ]
        body = [*blocks, *activate] if self.pre_activation else [*activate, *blocks]
        return nn.Sequential(
            stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
        )


@dataclass(frozen=True, kw_only=True)
class Factory:
    """Anybody's network: an importable class, or a function that returns one.

    It is called with `arguments`, and with `num_classes` if it takes that.
    """

    path: str
    """Where it is: "package.module:function", for example torchvision.models:resnet18."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments."""

    def __post_init__(self) -> None:
        _import_factory(self.path)

    def __hash__(self) -> int:
        return hash((self.path, repr(sorted(self.arguments.items()))))

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Call it; `input_shape` is not passed, put what is needed of it into `arguments`.

        Raises:
            ValueError: if it fails, or returns no network.
        """
        del input_shape
        told: dict[str, Any] = {}
        try:
            factory = _import_factory(self.path)
            told = {"num_classes": num_classes} if _takes(factory, "num_classes") else {}
            told |= self.arguments
            model = factory(**told)
        except Exception as error:  # anybody's function may raise anything
            raise ValueError(
                f"{self.path} cannot be called with {told} ({one_line(error)}); "
                "change model.arguments"
            ) from error
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"{self.path} must return a torch.nn.Module, got {type(model).__name__}"
            )
        return model


MODELS: dict[str, type[SmallCNN] | type[ResNet]] = {"small-cnn": SmallCNN, "resnet": ResNet}
"""Networks by the name that a scenario gives; a name with a colon is a `Factory`."""


class _BasicBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias),
            _norm(norm, out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias),
            _norm(norm, out_channels),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=bias),
                _norm(norm, out_channels),
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
        self.before = nn.Sequential(_norm(norm, in_channels), nn.ReLU())
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias),
            _norm(norm, out_channels),
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


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(8 if channels % 8 == 0 else 1, channels)
    return nn.Identity()


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Tell whether a function takes an argument of this name, as far as it can be told."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    return name in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def _import_factory(path: str) -> Callable[..., Any]:
    module_name, _, function_name = path.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"cannot import {path!r} ({error}); write package.module:function, and put the folder "
            "in which the package lies on PYTHONPATH if it is not installed"
        ) from error
    if not callable(factory):
        raise ValueError(f"{path!r} is not callable; name a function or class that returns a model")
    return factory  # type: ignore[no-any-return]
