"""What single layers are given and return, observed in one pass of a blank image."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer."""

    name: str
    """The layer's, as `named_modules` gives it."""
    layer: nn.Module
    """The layer itself."""
    inputs: Any
    """Its first positional argument; None if it has none."""
    output: Any
    """What it returned."""
    output_version: int
    """How often the output had been changed in place when it was returned."""
    input_version: int
    """How often the inputs had been changed in place when they were given."""

    def is_given_output_of(self, earlier: "Call") -> bool:
        """Whether this layer is given what an earlier call returned, unchanged since."""
        same = self.inputs is earlier.output
        return same and self.input_version == earlier.output_version


@contextmanager
def removed_after(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks at the end, whatever happens."""
    registered = list(hooks)
    try:
        yield
    finally:
        for hook in registered:
            hook.remove()


def blank_pass(model: nn.Module, input_shape: Sequence[int]) -> None:
    """Pass one input (C, H, W) of zeros through a model, on its device, without gradient."""
    with torch.no_grad():
        model(torch.zeros(1, *input_shape, device=next(model.parameters()).device))


def observe_layers(
    model: nn.Module, input_shape: Sequence[int], is_observed: Callable[[str, nn.Module], bool]
) -> list[Call]:
    """Return the calls of some layers in one pass of a blank image, in the order in which they end.

    Args:
        model: in eval mode.
        input_shape: channels, height, width.
        is_observed: from a layer's name and itself to whether it is observed.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2))
        >>> calls = observe_layers(network, (1, 8, 8), lambda _, layer: hasattr(layer, "weight"))
        >>> [(call.name, tuple(call.output.shape)) for call in calls]
        [('0', (1, 4, 6, 6)), ('2', (1, 2))]
    """
    calls: list[Call] = []
    input_versions: list[int] = []
    """Of the layers that are running, the innermost last."""

    def before(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        input_versions.append(_version(arguments[0] if arguments else None))

    def after(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def note(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            inputs = arguments[0] if arguments else None
            version = input_versions.pop()
            calls.append(Call(name, layer, inputs, output, _version(output), version))

        return note

    observed = [(name, layer) for name, layer in model.named_modules() if is_observed(name, layer)]
    hooks = [layer.register_forward_pre_hook(before) for _, layer in observed]
    hooks += [layer.register_forward_hook(after(name)) for name, layer in observed]
    with removed_after(hooks):
        blank_pass(model, input_shape)
    return calls


def _version(value: Any) -> int:
    return value._version if isinstance(value, Tensor) else 0
