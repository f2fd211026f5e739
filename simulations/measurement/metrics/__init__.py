"""Everything that is measured of a model on test images, by the name that stands in every file."""

from torch import Tensor

from simulations.measurement.metrics.accuracy import Accuracy
from simulations.measurement.metrics.attack_success_rate import AttackSuccessRate
from simulations.measurement.metrics.base import BackdoorMetric, CleanMetric, Metric, Triggered
from simulations.measurement.metrics.non_source_accuracy import NonSourceAccuracy
from simulations.measurement.metrics.robust_accuracy import RobustAccuracy

METRICS: dict[str, Metric] = {
    "accuracy": Accuracy(),
    "attack_success_rate": AttackSuccessRate(),
    "robust_accuracy": RobustAccuracy(),
    "non_source_accuracy": NonSourceAccuracy(),
}
"""Name in every file -> metric; the order is that of columns."""


def columns() -> dict[str, Metric]:
    """Return those that stand in every table."""
    return {name: metric for name, metric in METRICS.items() if metric.column}


def measure_clean(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the rates on clean images.

    Args:
        predicted: (N,) classes that a model gives.
        labels: (N,) true classes.
    """
    return {
        name: metric.measure(predicted, labels)
        for name, metric in METRICS.items()
        if isinstance(metric, CleanMetric)
    }


def measure_triggered(triggered: Triggered) -> dict[str, float]:
    """Return the rates on images with the trigger of one backdoor that this backdoor has."""
    rates = {
        name: metric.measure(triggered)
        for name, metric in METRICS.items()
        if isinstance(metric, BackdoorMetric)
    }
    return {name: rate for name, rate in rates.items() if rate is not None}
