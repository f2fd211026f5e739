"""What a source-specific backdoor does to images that it does not mean."""

from dataclasses import dataclass

from fl_defense import metrics
from simulations.metrics.base import BackdoorMetric, Triggered


@dataclass(frozen=True, kw_only=True)
class NonSourceAccuracy(BackdoorMetric):
    """Share of triggered test images outside the backdoor's sources that keep their true class.

    Example:
        >>> import torch
        >>> zeros, labels = torch.tensor([0, 0]), torch.tensor([1, 2])
        >>> said = Triggered(predicted=labels, labels=labels, wanted=zeros, is_source=labels > 1)
        >>> NonSourceAccuracy().measure(said)
        1.0
    """

    name = "non_source_accuracy"
    title = "triggered images of other classes kept"

    def measure(self, triggered: Triggered) -> float | None:
        """Return the share, or None where the backdoor means every class."""
        others = ~triggered.is_source
        if not others.any():
            return None
        return metrics.accuracy(triggered.predicted[others], triggered.labels[others])
