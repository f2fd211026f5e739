"""What a server may know of a model: its structure, its pixels, where to cut it; never data."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from fl_defense.model.split import default_cut, split_at
from fl_defense.validation import one_line, require_at_least

SUMS_TO_ONE = 1e-4
"""Distance from 1 within which answers that are not negative are taken for a softmax's."""
SQUEEZES = {
    "Softmax": "a softmax",
    "Sigmoid": "a sigmoid",
    "Tanh": "a tanh",
    "Hardsigmoid": "a hard sigmoid",
    "Hardtanh": "a hard tanh",
    "Clamp": "a clamp",
    "LogSigmoid": "a log-sigmoid",
    "Softplus": "a softplus",
    "Exp": "an exponential",
}
"""Last steps whose answers are no logits, by autograd's names."""
CHANGES_OF_SHAPE = ("View", "Squeeze", "Unsqueeze", "Reshape", "Clone", "Alias", "UnsafeView")
"""Beginnings of autograd's names of what only arranges values."""
BY_A_NUMBER = ("ToCopy", "Mul", "Div", "Add", "Sub", "Neg")
"""The same of what changes the dtype, or has only one operand that is no constant."""


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The step between images in [0, 1] and the normalised inputs that a network takes.

    One number per channel, or a single number for all channels. Clients that give their networks
    pixels of 0 to 255 as they are have mean 0 and std 1/255.

    Raises:
        ValueError: if a mean is outside [0, 1] or a standard deviation outside (0, 1]: such numbers
            are of pixels of 0 to 255.

    Example:
        >>> pixels = Pixels(mean=(0.5,), std=(0.25,))
        >>> pixels.normalize(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: tuple[float, ...] = (0.5,)
    """Subtracted from an image in [0, 1], per channel."""
    std: tuple[float, ...] = (0.25,)
    """Divides the difference, per channel; positive."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            values = tuple(value) if isinstance(value, Iterable) else (value,)
            if not all(isinstance(each, Real) for each in values):
                raise ValueError(f"{name} must be numbers, one per channel, got {value!r}")
            object.__setattr__(self, name, values)
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std must have the same length, got {len(self.mean)} and {len(self.std)}"
            )
        for name, low in (("mean", min(self.mean) >= 0), ("std", min(self.std) > 0)):
            values = getattr(self, name)
            if not (low and max(values) <= 1):
                interval = "[0, 1]" if name == "mean" else "(0, 1]"
                raise ValueError(
                    f"{name} must be in {interval}, as of pixels in [0, 1], got {values}; divide "
                    "mean and std of pixels of 0 to 255 by 255"
                )

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
        ValueError: if `build` is a network instead of what makes one, a size is no whole
            number above 0, or the pixels do not fit the channels.

    Example:
        >>> spec = ModelSpec(
        ...     build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
        ...     input_shape=(1, 8, 8),
        ...     num_classes=3,
        ... )
        >>> spec.build()(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """

    build: Callable[[], nn.Module]
    """Makes a fresh, randomly initialised network of the architecture, another one at each call."""
    input_shape: tuple[int, int, int]
    """Channels, height and width of one input."""
    num_classes: int
    """Length of the logits, at least 2: one logit per class, or log-posteriors. Of K numbers that
    are no classes (a regression) nobody can tell; do not defend such a network."""
    pixels: Pixels = Pixels()
    """Mean and standard deviation that the clients normalise with."""
    inspect_at: str | None = None
    """Submodule after which the classifier begins, as in `named_modules`; None: `default_cut`."""

    def __post_init__(self) -> None:
        if isinstance(self.build, nn.Module) or not callable(self.build):
            raise ValueError(
                "build must be called to make a network, got "
                f"{type(self.build).__name__}; give the class, or a function without arguments "
                "that returns a fresh network"
            )
        shape = self.input_shape
        whole = isinstance(shape, tuple | list) and all(isinstance(n, Integral) for n in shape)
        if not whole or len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"input_shape must be (channels, height, width), got {shape!r}")
        if isinstance(self.num_classes, bool) or not isinstance(self.num_classes, Integral):
            raise ValueError(f"num_classes must be a whole number, got {self.num_classes!r}")
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
    with torch.random.fork_rng(devices=[]):
        model = _built(spec).eval()
        _require_state(model)
        _require_fresh(model, _built(spec))
    image = torch.zeros(1, *spec.input_shape, requires_grad=True)
    try:
        with torch.enable_grad():
            logits = model(image)
    except Exception as error:  # anybody's network may raise anything
        channels, height, width = spec.input_shape
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
    if not logits.is_floating_point():
        raise ValueError(f"must answer with logits, got numbers of {logits.dtype}; return float32")
    _require_logits(logits)
    return model


def _built(spec: ModelSpec) -> nn.Module:
    try:
        model = spec.build()
    except ValueError:  # in this library's own words
        raise
    except Exception as error:  # anybody's function may raise anything
        raise ValueError(f"cannot be built ({one_line(error)}); change `build`") from error
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
    if not isinstance(model, nn.Module) or wrapped or hasattr(model, "_orig_mod"):
        raise ValueError(
            f"must be a plain torch.nn.Module, got {type(model).__name__} from `build`; return "
            "the network itself, neither wrapped nor compiled"
        )
    return model


def _require_fresh(model: nn.Module, other: nn.Module) -> None:
    """Refuse two networks that share weights: writing into one would change the other.

    Raises:
        ValueError: if they do.
    """
    of_model = {each.data_ptr() for each in model.parameters() if each.numel()}
    for name, each in other.named_parameters():
        if each.numel() and each.data_ptr() in of_model:
            raise ValueError(
                f"must be a fresh one at each call of `build`, which returned {name!r} twice; "
                "make the network inside the function"
            )


def _require_logits(answer: Tensor) -> None:
    """Refuse answers that went through a softmax or are squeezed one by one.

    What made them is told by the node of the graph that autograd has recorded, looked for behind
    changes of shape; without a graph, by their sum. A log-softmax is taken: it moves all logits of
    an image alike, and distances between answers are measured beside their mean.

    Raises:
        ValueError: if they are no logits.
    """
    node = answer.grad_fn
    while node is not None and (
        node.name().startswith(CHANGES_OF_SHAPE)
        or (node.name().startswith(BY_A_NUMBER) and _operands(node) == 1)
    ):
        node = next(each for each, _ in node.next_functions if each is not None)
    made_by = "" if node is None else node.name().partition("Backward")[0]
    sums_to_one = answer.min() >= 0 and (answer.sum() - 1).abs() < SUMS_TO_ONE
    if sums_to_one or made_by in SQUEEZES:
        last = SQUEEZES.get(made_by, "a softmax")
        raise ValueError(
            f"must answer with logits, got what {last} makes of them, on which distances between "
            "answers say little; return what goes into it"
        )


def _operands(node: torch.autograd.graph.Node) -> int:
    """Return of how many operands that are no constants a step made its answer."""
    return sum(each is not None for each, _ in node.next_functions)


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
        if tensor.is_meta:
            raise ValueError(
                f"{name} has no values (it is on the meta device); let `build` make the network on "
                "the CPU"
            )
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and torch.finfo(tensor.dtype).bits < 32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"must be built in float32, got {name!r} in {kind}; let `build` return "
                f"model.float(): arrays in {kind} are taken and sent as they are"
            )
    try:
        copy.deepcopy(model)
    except Exception as error:  # anybody's network may raise anything
        raise ValueError(
            f"cannot be copied ({one_line(error)}); write it so that copy.deepcopy takes it, for "
            "example with torch.nn.utils.parametrizations"
        ) from error
