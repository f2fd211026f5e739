"""Metrics: what is measured of a model on test images. A metric is one class and one line here."""

from collections.abc import Iterable

from torch import Tensor

from simulations.metrics.accuracy import Accuracy
from simulations.metrics.attack_success_rate import AttackSuccessRate
from simulations.metrics.base import BackdoorMetric, CleanMetric, Metric, Triggered
from simulations.metrics.non_source_accuracy import NonSourceAccuracy
from simulations.metrics.per_class import BalancedAccuracy, WorstClassAccuracy
from simulations.metrics.robust_accuracy import RobustAccuracy

METRICS: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "attack-success-rate": AttackSuccessRate,
    "robust-accuracy": RobustAccuracy,
    "non-source-accuracy": NonSourceAccuracy,
    "balanced-accuracy": BalancedAccuracy,
    "worst-class-accuracy": WorstClassAccuracy,
}
"""Metrics by the name that a scenario gives."""
STANDARD: tuple[Metric, ...] = (
    Accuracy(),
    AttackSuccessRate(),
    RobustAccuracy(),
    NonSourceAccuracy(),
)
"""What every run measures, in the order of columns: summaries and comparisons are made of it."""

__all__ = [
    "METRICS",
    "STANDARD",
    "Accuracy",
    "AttackSuccessRate",
    "BackdoorMetric",
    "BalancedAccuracy",
    "CleanMetric",
    "Metric",
    "NonSourceAccuracy",
    "RobustAccuracy",
    "Triggered",
    "WorstClassAccuracy",
    "columns",
    "measure_clean",
    "measure_triggered",
    "measured",
    "metrics_named",
]


def measured(more: Iterable[Metric] = ()) -> dict[str, Metric]:
    """Return the standard metrics and more, by the name that stands in every file.

    Example:
        >>> list(measured([BalancedAccuracy(), Accuracy()]))[-2:]
        ['non_source_accuracy', 'balanced_accuracy']
    """
    found = {metric.name: metric for metric in STANDARD}
    for metric in more:
        found.setdefault(metric.name, metric)
    return found


def metrics_named(names: Iterable[str], more: Iterable[Metric] = ()) -> dict[str, Metric]:
    """Return the metrics of names that stand in a file; of a name that nobody knows a plain one.

    Args:
        names: in any order; the standard ones come first.
        more: other metrics that may be meant, such as a scenario's.

    Example:
        >>> [metric.title for metric in metrics_named(["my_rate", "accuracy"]).values()]
        ['accuracy', 'my rate']
    """
    asked = dict.fromkeys(names)
    shipped = (kind() for kind in METRICS.values())
    known = {name: metric for name, metric in measured([*more, *shipped]).items() if name in asked}
    return known | {name: _unknown(name) for name in asked if name not in known}


def columns(more: Iterable[Metric] = ()) -> dict[str, Metric]:
    """Return those of the standard metrics and more that stand in every table.

    Example:
        >>> list(columns())
        ['accuracy', 'attack_success_rate', 'robust_accuracy']
    """
    return {name: metric for name, metric in measured(more).items() if metric.column}


def measure_clean(
    predicted: Tensor, labels: Tensor, more: Iterable[Metric] = ()
) -> dict[str, float]:
    """Return the rates on clean images.

    Args:
        predicted: (N,) classes that a model gives.
        labels: (N,) true classes.
        more: what is measured beside the standard metrics.

    Example:
        >>> import torch
        >>> measure_clean(torch.tensor([0, 1]), torch.tensor([0, 2]))
        {'accuracy': 0.5}
    """
    return {
        name: metric.measure(predicted, labels)
        for name, metric in measured(more).items()
        if isinstance(metric, CleanMetric)
    }


def measure_triggered(triggered: Triggered, more: Iterable[Metric] = ()) -> dict[str, float]:
    """Return the rates on images with the trigger of one backdoor that this backdoor has.

    Args:
        triggered: what a model says of them.
        more: what is measured beside the standard metrics.

    Example:
        >>> import torch
        >>> zeros, labels = torch.tensor([0, 0]), torch.tensor([1, 2])
        >>> said = Triggered(predicted=zeros, labels=labels, wanted=zeros, is_source=labels > 0)
        >>> measure_triggered(said)
        {'attack_success_rate': 1.0, 'robust_accuracy': 0.0}
    """
    rates = {
        name: metric.measure(triggered)
        for name, metric in measured(more).items()
        if isinstance(metric, BackdoorMetric)
    }
    return {name: rate for name, rate in rates.items() if rate is not None}


def _unknown(name: str) -> Metric:
    """Return what is known of a metric whose code was not imported: its name."""
    words = name.replace("_", " ")
    kind: type[Metric] = type("Unknown", (Metric,), {"name": name, "title": words, "column": words})
    return kind()
