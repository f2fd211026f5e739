"""In which numbers a defense computes: single precision, or bfloat16 where the hardware has it."""

from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16"]


def computed_in(precision: Precision, network: nn.Module) -> nn.Module:
    """Return a network that computes in `precision` and takes and gives float32.

    The parameters are the network's own, in float32, and so are their gradients.
    """
    return network if precision == "float32" else _InBfloat16(network)


class _InBfloat16(nn.Module):
    """Convolutions and linear layers in bfloat16, what needs the range or the digits in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim == 4:
            # Kernels for bfloat16 want the channels of a pixel side by side, or copy them there.
            inputs = inputs.to(memory_format=torch.channels_last)
        # One context for each call: it keeps the cast weights, which an optimiser may then change.
        with torch.autocast(inputs.device.type, torch.bfloat16):
            outputs: Tensor = self.network(inputs)
        return outputs.float()
