"""Scenes with a model's answers to them, drawn so that its classes come equally often."""

import torch
from torch import Tensor

SMALLEST_SPREAD = 1e-12
"""Spread of a network that says the same to everything."""


class AnsweredScenes:
    """Images to be drawn so that the classes that a model sees come equally often.

    They are drawn again and again: the model answers each once and for all.

    Args:
        inputs: normalised, (N, C, H, W).
        answers: the model's logits for them, (N, K).
    """

    def __init__(self, inputs: Tensor, answers: Tensor) -> None:
        self.inputs, self.answers = inputs, answers
        self._weights = class_balance(self.answers)

    def sample(self, num: int) -> tuple[Tensor, Tensor]:
        """Return `num` inputs and the model's logits for them."""
        chosen = torch.multinomial(self._weights, num, replacement=True)
        return self.inputs[chosen], self.answers[chosen]

    def spread(self) -> float:
        """Return how far the logits of one image lie apart: their mean standard deviation."""
        return max(SMALLEST_SPREAD, float(self.answers.std(1).mean()))


def class_balance(logits: Tensor) -> Tensor:
    """Return sampling weights (N,) that make the classes of logits (N, K) equally frequent."""
    classes = logits.argmax(dim=1)
    return 1.0 / classes.bincount()[classes].float()
