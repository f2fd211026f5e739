"""Scenes with a model's logits for them, drawn so that its classes come equally often."""

import torch
from torch import Tensor

SMALLEST_SPREAD = 1e-12
"""Spread of a network that says the same to everything."""


class ScenePool:
    """Images to be drawn so that the classes that a model sees come equally often.

    They are drawn again and again: the model answers each once and for all.

    Args:
        inputs: normalised, (N, C, H, W).
        logits: the model's for them, (N, K).
    """

    def __init__(self, inputs: Tensor, logits: Tensor) -> None:
        self.inputs, self.logits = inputs, logits
        self._weights = class_balance(self.logits)

    def draw(self, num: int) -> Tensor:
        """Return the indices of `num` scenes, (num,)."""
        return torch.multinomial(self._weights, num, replacement=True)

    def sample(self, num: int) -> tuple[Tensor, Tensor]:
        """Return `num` inputs and the model's logits for them."""
        indices = self.draw(num)
        return self.inputs[indices], self.logits[indices]

    def spread(self) -> float:
        """Return how far the logits of one image lie apart: their mean standard deviation."""
        return max(SMALLEST_SPREAD, float(self.logits.std(1).mean()))


def class_balance(logits: Tensor) -> Tensor:
    """Return sampling weights (N,) that make the classes of logits (N, K) equally frequent."""
    classes = logits.argmax(dim=1)
    return 1.0 / classes.bincount()[classes].float()
