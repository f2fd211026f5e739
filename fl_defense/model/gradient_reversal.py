"""The gradient reversal layer (Ganin and Lempitsky, ICML 2015): one pass for two adversaries."""

from typing import Any

import torch
from torch import Tensor


class GradientReversal(torch.autograd.Function):
    """Passes values on as they are, and gradients back with their sign reversed."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Return the values."""
        del ctx
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the reversed gradient."""
        del ctx
        return gradient.neg()


def reverse_gradient(values: Tensor) -> Tensor:
    """Return values whose gradient is reversed on its way back.

    What is behind climbs the loss that what is ahead descends.

    Example:
        >>> weight = torch.tensor(3.0, requires_grad=True)
        >>> (2 * reverse_gradient(weight)).backward()
        >>> weight.grad
        tensor(-2.)
    """
    reversed_values: Tensor = GradientReversal.apply(values)
    return reversed_values
