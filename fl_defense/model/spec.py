"""What a server may know of a model: its structure, its pixels, where to cut it; never data."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from fl_defense.model.split import default_cut, split_at
from fl_defense.validation import one_line, require_at_least

SUMS_TO_ONE = 1e-4
"""Distance from 1 within which answers that are not negative are taken for a softmax's."""


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The step between images in [0, 1] and the normalised inputs that a network takes.

    One number per channel, or a single number for all channels.
    """

    mean: tuple[float, ...] = (0.5,)
    """Subtracted from an image in [0, 1], per channel."""
    std: tuple[float, ...] = (0.25,)
    """Divides the difference, per channel; positive."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            values = (value,) if isinstance(value, int | float) else tuple(value)
            object.__setattr__(self, name, values)
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std must have the same length, got {len(self.mean)} and {len(self.std)}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def normalize(self, images: Tensor) -> Tensor:
        """Turn images in [0, 1], shape (B, C, H, W), into network inputs of the same shape."""
        mean, std = self._constants(images)
        return (images - mean) / std

    def denormalize(self, inputs: Tensor) -> Tensor:
        """Turn network inputs, shape (B, C, H, W), back into images."""
        mean, std = self._constants(inputs)
        return inputs * std + mean

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(self.mean, dtype=like.dtype, device=like.device)
        std = torch.tensor(self.std, dtype=like.dtype, device=like.device)
        return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The structure of the global model: all that a data-free defense is told.

    Raises:
        ValueError: if a size is not positive or the pixels do not fit the channels.
    """

    build: Callable[[], nn.Module]
    """Makes a fresh, randomly initialised network of the architecture."""
    input_shape: tuple[int, int, int]
    """Channels, height and width of one input."""
    num_classes: int
    """Length of the logits; at least 2."""
    pixels: Pixels = Pixels()
    """Mean and standard deviation that the clients normalise with."""
    inspect_at: str | None = None
    """Submodule after which the classifier begins, as in `named_modules`; None: `default_cut`."""

    def __post_init__(self) -> None:
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise ValueError(
                f"input_shape must be (channels, height, width), got {self.input_shape}"
            )
        require_at_least(self, num_classes=2)
        if len(self.pixels.mean) not in (1, self.input_shape[0]):
            raise ValueError(
                f"pixels must have 1 or {self.input_shape[0]} channels, got {len(self.pixels.mean)}"
            )

    def split(self, model: nn.Module) -> tuple[nn.Module, nn.Module]:
        """Cut `model` at the inspection layer into (features, head), which share its weights.

        Raises:
            ValueError: if the model cannot be cut there; see `split_at`.
        """
        return split_at(model, self.inspect_at or default_cut(model))


def try_model(spec: ModelSpec) -> nn.Module:
    """Build a network and pass one blank image through it, to see that the two fit.

    The global random state stays as it is.

    Returns:
        The network, on the CPU and in eval mode.

    Raises:
        ValueError: if it cannot be built or copied, takes no images of this shape, or answers with
            anything but one logit per class.
    """
    channels, height, width = spec.input_shape
    with torch.random.fork_rng(devices=[]):
        model = spec.build().eval()
    _require_state(model)
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, channels, height, width))
    except Exception as error:  # anybody's network may raise anything
        raise ValueError(
            f"takes no images of {channels}x{height}x{width} ({one_line(error)}); "
            "choose a network and images that fit"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (1, spec.num_classes):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"must answer one image with logits of shape (1, {spec.num_classes}), got {got}; "
            "make the number of classes and the network agree"
        )
    if logits.min() >= 0 and (logits.sum() - 1).abs() < SUMS_TO_ONE:
        raise ValueError(
            "must answer with logits, got shares that sum to 1 (a softmax?), on which distances "
            "between answers say little; return what goes into it"
        )
    return model


def _require_state(model: nn.Module) -> None:
    """Refuse a fresh network that cannot be sent or copied.

    Raises:
        ValueError: if a parameter has no shape yet, or copying fails.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise ValueError(
                f"{name} has no shape before the first image (a lazy layer); pass one image "
                "through the network where it is built, or give the layer its sizes"
            )
    try:
        copy.deepcopy(model)
    except Exception as error:  # anybody's network may raise anything
        raise ValueError(
            f"cannot be copied ({one_line(error)}); write it so that copy.deepcopy takes it, for "
            "example with torch.nn.utils.parametrizations"
        ) from error
