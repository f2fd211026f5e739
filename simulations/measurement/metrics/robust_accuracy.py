"""Robust accuracy."""

from fl_defense import metrics
from simulations.measurement.metrics.base import BackdoorMetric, Triggered


class RobustAccuracy(BackdoorMetric):
    """Share of triggered test images, not of the target class, that keep their true class."""

    title = "robust accuracy"
    column = "robust"
    in_picture = ("released",)
    color = "tab:green"

    def measure(self, triggered: Triggered) -> float:
        """Return the share; images that should keep their class anyway are left out."""
        return metrics.robust_accuracy(triggered.predicted, triggered.labels, triggered.wanted)
