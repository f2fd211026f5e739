"""How a defense computes a network's answers: in which numbers, and how images lie in memory."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16"]


@torch.no_grad()
def fastest_layout(model: nn.Module, shape: tuple[int, ...]) -> torch.memory_format:
    """Return how images should lie in memory for a model: channels last, or as torch has them.

    With the channels of a pixel side by side convolutions are fastest. Networks that `view` a
    feature map or a kernel as rows, as many tutorials do, cannot take that.

    Args:
        model: in eval mode.
        shape: (C, H, W) of its inputs.
    """
    example = torch.zeros(2, *shape, device=next(model.parameters()).device)
    try:
        tried = copy.deepcopy(model).to(memory_format=torch.channels_last)
        tried(example.to(memory_format=torch.channels_last))
    except Exception:  # noqa: BLE001 - anybody's network may raise anything
        return torch.contiguous_format
    return torch.channels_last


@contextmanager
def in_fastest_layout(model: nn.Module, shape: tuple[int, ...]) -> Iterator[torch.memory_format]:
    """Have a model's kernels lie in memory as its images should; afterwards they lie as before.

    On the CPU that takes a third of the time. On GPUs in float32 it was not measured.

    Args:
        model: in eval mode.
        shape: (C, H, W) of its inputs.
    """
    parameters = list(model.parameters())
    on_cpu = bool(parameters) and parameters[0].device.type == "cpu"
    if not on_cpu or fastest_layout(model, shape) is torch.contiguous_format:
        yield torch.contiguous_format
        return
    before = [parameter.data for parameter in parameters]
    try:
        for parameter in parameters:
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        yield torch.channels_last
    finally:
        for parameter, data in zip(parameters, before, strict=True):
            parameter.data = data


class Execution:
    """A choice of numbers and memory that is made once and holds for all parts of a model.

    Args:
        precision: single precision, or bfloat16 where the hardware has it.
        model: the whole network, in eval mode.
        shape: (C, H, W) of its inputs.
    """

    def __init__(self, precision: Precision, model: nn.Module, shape: tuple[int, int, int]) -> None:
        self.precision, self.shape = precision, shape
        self.layout = torch.contiguous_format
        # On GPUs in float32 it was not measured.
        if precision == "bfloat16" or next(model.parameters()).device.type == "cpu":
            self.layout = fastest_layout(model, shape)

    def of(self, network: nn.Module) -> nn.Module:
        """Return a network that computes so, and takes and gives float32.

        The parameters are the network's own, in float32, and so are their gradients.

        Args:
            network: the model, a part of it, or a copy.
        """
        return _Computed(network, self)


class _Computed(nn.Module):
    """In bfloat16 only convolutions and linear layers; the rest needs float32's range or digits."""

    def __init__(self, network: nn.Module, computation: Execution) -> None:
        super().__init__()
        self.network, self.computation = network, computation
        self.training = network.training

    def forward(self, inputs: Tensor) -> Tensor:
        # Images alone: feature maps lie as the part before has left them.
        if inputs.shape[1:] == self.computation.shape:
            inputs = inputs.to(memory_format=self.computation.layout)
        if self.computation.precision == "float32":
            outputs: Tensor = self.network(inputs)
            return outputs
        # One context for each call: it keeps the cast weights, which an optimiser may then change.
        with torch.autocast(inputs.device.type, torch.bfloat16):
            outputs = self.network(inputs)
        return outputs.float()
