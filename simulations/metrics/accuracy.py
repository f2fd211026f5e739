"""Accuracy on clean images."""

from dataclasses import dataclass

from torch import Tensor

from fl_defense import metrics
from simulations.metrics.base import CleanMetric


@dataclass(frozen=True, kw_only=True)
class Accuracy(CleanMetric):
    """Share of clean test images that are given their true class.

    Example:
        >>> import torch
        >>> Accuracy().measure(torch.tensor([0, 1]), torch.tensor([0, 2]))
        0.5
    """

    name = "accuracy"
    title = "accuracy"
    column = "accuracy"
    in_picture = ("released",)
    color = "tab:blue"

    def measure(self, predicted: Tensor, labels: Tensor) -> float:
        """Return the share."""
        return metrics.accuracy(predicted, labels)
