"""Accuracy on clean images."""

from torch import Tensor

from fl_defense import metrics
from simulations.measurement.metrics.base import CleanMetric


class Accuracy(CleanMetric):
    """Share of clean test images that are given their true class."""

    title = "accuracy"
    column = "accuracy"
    in_picture = ("released",)
    color = "tab:blue"

    def measure(self, predicted: Tensor, labels: Tensor) -> float:
        """Return the share."""
        return metrics.accuracy(predicted, labels)
