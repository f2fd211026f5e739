"""Answers to many inputs, a chunk at a time."""

import torch
from torch import Tensor, nn

CHUNK = 256
"""Images or features that are computed together where no gradient is needed."""


@torch.no_grad()
def in_chunks(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return `module(inputs)`, computed a few hundred rows at a time, without gradient."""
    return torch.cat([module(chunk) for chunk in inputs.split(CHUNK)])
