"""Attack success rate."""

from fl_defense import metrics
from simulations.measurement.metrics.base import BackdoorMetric, Triggered


class AttackSuccessRate(BackdoorMetric):
    """Share of triggered test images, not of the target class, that are given the target class."""

    title = "ASR"
    column = "ASR"
    in_table = ("aggregate", "released")
    in_picture = ("aggregate", "unpurified", "released")
    color = "tab:red"

    def measure(self, triggered: Triggered) -> float:
        """Return the share; images that should keep their class are left out."""
        return metrics.attack_success_rate(triggered.predicted, triggered.labels, triggered.wanted)
