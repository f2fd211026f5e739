"""Accuracy by class: what a mean over the images hides."""

from dataclasses import dataclass

import torch
from torch import Tensor

from simulations.metrics.base import CleanMetric


def class_accuracies(predicted: Tensor, labels: Tensor) -> Tensor:
    """Return the share of each class's images that are given it, (K,): classes that occur.

    Example:
        >>> class_accuracies(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1]))
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    right = (predicted == labels).double()
    return torch.stack([right[labels == label].mean() for label in labels.unique()])


@dataclass(frozen=True, kw_only=True)
class BalancedAccuracy(CleanMetric):
    """Mean over the classes of the share of a class's clean test images that are given it.

    Example:
        >>> BalancedAccuracy().measure(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]))
        0.5
    """

    name = "balanced_accuracy"
    title = "balanced accuracy"
    column = "balanced"
    in_picture = ("released",)
    color = "tab:cyan"

    def measure(self, predicted: Tensor, labels: Tensor) -> float:
        """Return the mean."""
        return class_accuracies(predicted, labels).mean().item()


@dataclass(frozen=True, kw_only=True)
class WorstClassAccuracy(CleanMetric):
    """Least share of a class's clean test images that are given it: a class that a repair lost.

    Example:
        >>> WorstClassAccuracy().measure(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]))
        0.0
    """

    name = "worst_class_accuracy"
    title = "accuracy of the worst class"
    column = "worst class"
    in_picture = ("released",)
    color = "tab:olive"

    def measure(self, predicted: Tensor, labels: Tensor) -> float:
        """Return the least."""
        return class_accuracies(predicted, labels).min().item()
