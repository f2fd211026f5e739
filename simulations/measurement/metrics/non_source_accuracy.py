"""What a source-specific backdoor does to images that it does not mean."""

from fl_defense import metrics
from simulations.measurement.metrics.base import BackdoorMetric, Triggered


class NonSourceAccuracy(BackdoorMetric):
    """Share of triggered test images outside the backdoor's sources that keep their true class."""

    title = "triggered images of other classes kept"

    def measure(self, triggered: Triggered) -> float | None:
        """Return the share, or None where the backdoor means every class."""
        others = ~triggered.is_source
        if not others.any():
            return None
        return metrics.accuracy(triggered.predicted[others], triggered.labels[others])
