"""BatchNorm statistics: observed layer by layer, and corrected for changed weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fl_defense.model.hooks import removed_after

VARIANCE_FLOOR = 1e-5
"""Added to variances that are divided."""
NEVER_NEGATIVE = ("running_var", "num_batches_tracked")
"""Last parts of the names of variances and counters, as PyTorch's layers call them."""


def non_negative_buffers(model: nn.Module) -> frozenset[str]:
    """Return the names of a model's variances and counters, which are never below 0.

    A negative variance makes the model answer NaN. Known by PyTorch's names, which normalisation
    layers of other libraries have, too.
    """
    return frozenset(
        name for name, _ in model.named_buffers() if name.split(".")[-1] in NEVER_NEGATIVE
    )


def keeps_statistics(model: nn.Module) -> bool:
    """Tell whether a model remembers, in some BatchNorm layer, what its images were like."""
    return len(_keeping(model)) > 0


def _keeping(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the BatchNorm layers that keep statistics, by name."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


@torch.no_grad()
def correct_statistics(teacher: nn.Module, student: nn.Module, inputs: Tensor) -> None:
    """Give the student's BatchNorm layers statistics that fit its weights, in place.

    What real images would leave there is not known. A layer's input is taken to change from the
    teacher to the student on real images as it does on these: its mean and variance per channel
    are the teacher's, moved and scaled by what is seen here.

    Args:
        teacher: in eval mode.
        student: in eval mode; the same network with other weights.
        inputs: (N, C, H, W), normalised.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def moments(features: Tensor) -> tuple[Tensor, Tensor]:
        others = [0, *range(2, features.ndim)]
        return features.mean(others), features.var(others)

    def note(name: str, arguments: tuple[Tensor]) -> None:
        seen[name] = moments(arguments[0])

    def correct(name: str, layer: nn.Module, arguments: tuple[Tensor]) -> None:
        mean, variance = layer.running_mean, layer.running_var
        assert isinstance(mean, Tensor)
        assert isinstance(variance, Tensor)
        (old_mean, old_variance), (new_mean, new_variance) = seen[name], moments(arguments[0])
        scale = (new_variance + VARIANCE_FLOOR) / (old_variance + VARIANCE_FLOOR)
        mean.copy_(new_mean + (mean - old_mean) * scale.sqrt())
        variance.mul_(scale)

    with before_each_batchnorm(teacher, lambda name, _, arguments: note(name, arguments)):
        teacher(inputs)
    with before_each_batchnorm(student, correct):
        student(inputs)


@contextmanager
def before_each_batchnorm(
    model: nn.Module, act: Callable[[str, nn.Module, tuple[Tensor]], None]
) -> Iterator[None]:
    """Call `act(name, layer, arguments)` before each BatchNorm layer that keeps statistics."""
    layers = _keeping(model)
    hooks = [module.register_forward_pre_hook(partial(act, name)) for name, module in layers]
    with removed_after(hooks):
        yield
