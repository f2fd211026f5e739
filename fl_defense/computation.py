"""How a defense computes a network's answers: in which numbers, and how images lie in memory."""

from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16"]


class Computation:
    """A choice of numbers and memory that is made once and holds for all parts of a model.

    The channels of a pixel lie side by side ("channels last"), which kernels for CPUs and those for
    bfloat16 are fastest with. Networks that `view` a feature map as rows cannot take that; theirs
    lie as torch has them.

    Args:
        precision: single precision, or bfloat16 where the hardware has it.
        model: the whole network, in eval mode.
        shape: (C, H, W) of its inputs.
    """

    def __init__(self, precision: Precision, model: nn.Module, shape: tuple[int, int, int]) -> None:
        self.precision = precision
        self.layout = torch.contiguous_format
        device = next(model.parameters()).device
        if precision == "bfloat16" or device.type == "cpu":
            example = torch.zeros(2, *shape, device=device)
            if _takes(model, example.to(memory_format=torch.channels_last)):
                self.layout = torch.channels_last

    def of(self, network: nn.Module) -> nn.Module:
        """Return a network that computes so, and takes and gives float32.

        The parameters are the network's own, in float32, and so are their gradients.

        Args:
            network: the model, a part of it, or a copy.
        """
        return _Computed(network, self)


@torch.no_grad()
def _takes(model: nn.Module, inputs: Tensor) -> bool:
    try:
        model(inputs)
    except RuntimeError:
        return False
    return True


class _Computed(nn.Module):
    """Convolutions and linear layers in bfloat16, what needs the range or the digits in float32."""

    def __init__(self, network: nn.Module, computation: Computation) -> None:
        super().__init__()
        self.network, self.computation = network, computation
        self.training = network.training

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim == 4:
            inputs = inputs.to(memory_format=self.computation.layout)
        if self.computation.precision == "float32":
            outputs: Tensor = self.network(inputs)
            return outputs
        # One context for each call: it keeps the cast weights, which an optimiser may then change.
        with torch.autocast(inputs.device.type, torch.bfloat16):
            outputs = self.network(inputs)
        return outputs.float()
