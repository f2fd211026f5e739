"""Attack success rate."""

from dataclasses import dataclass

from fl_defense import metrics
from simulations.metrics.base import BackdoorMetric, Triggered


@dataclass(frozen=True, kw_only=True)
class AttackSuccessRate(BackdoorMetric):
    """Share of triggered test images, not of the target class, that are given the target class.

    Example:
        >>> import torch
        >>> zeros, labels = torch.tensor([0, 0]), torch.tensor([1, 2])
        >>> said = Triggered(predicted=zeros, labels=labels, wanted=zeros, is_source=labels > 0)
        >>> AttackSuccessRate().measure(said)
        1.0
    """

    name = "attack_success_rate"
    title = "ASR"
    column = "ASR"
    in_table = ("aggregate", "released")
    in_picture = ("aggregate", "unpurified", "released")
    color = "tab:red"

    def measure(self, triggered: Triggered) -> float:
        """Return the share; images that should keep their class are left out."""
        return metrics.attack_success_rate(triggered.predicted, triggered.labels, triggered.wanted)
