"""Robust accuracy."""

from dataclasses import dataclass

from fl_defense import metrics
from simulations.metrics.base import BackdoorMetric, Triggered


@dataclass(frozen=True, kw_only=True)
class RobustAccuracy(BackdoorMetric):
    """Share of triggered test images, not of the target class, that keep their true class.

    Example:
        >>> import torch
        >>> zeros, labels = torch.tensor([0, 0]), torch.tensor([1, 2])
        >>> said = Triggered(predicted=labels, labels=labels, wanted=zeros, is_source=labels > 0)
        >>> RobustAccuracy().measure(said)
        1.0
    """

    name = "robust_accuracy"
    title = "robust accuracy"
    column = "robust"
    in_picture = ("released",)
    color = "tab:green"

    def measure(self, triggered: Triggered) -> float:
        """Return the share; images that should keep their class anyway are left out."""
        return metrics.robust_accuracy(triggered.predicted, triggered.labels, triggered.wanted)
