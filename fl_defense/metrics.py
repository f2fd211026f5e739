"""What is measured: accuracy, attack success, robust accuracy, defense effectiveness.

All are fractions in [0, 1], pure functions of predicted and true classes. Attack success and
robust accuracy follow BackdoorBench: images whose true class is already the attacker's target are
left out, for they say nothing about the trigger.
"""

from torch import Tensor


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of predictions that equal the true class; both are (N,) integers."""
    return _share(predicted == labels, "accuracy")


def attack_success_rate(
    predicted_on_triggered: Tensor, labels: Tensor, target: Tensor | int
) -> float:
    """Share of triggered images, not of the target class, that are given the target class.

    Args:
        predicted_on_triggered: (N,) classes predicted for images that carry the trigger.
        labels: (N,) true classes.
        target: the attacker's class, one for all or one per image (N,).

    Raises:
        ValueError: if every image belongs to the target class.
    """
    hit = predicted_on_triggered == target
    return _share(hit[labels != target], "attack success rate")


def robust_accuracy(predicted_on_triggered: Tensor, labels: Tensor, target: Tensor | int) -> float:
    """Share of triggered images, not of the target class, that keep their true class.

    A ruined model has a low attack success rate too; its robust accuracy gives it away.

    Raises:
        ValueError: if every image belongs to the target class.
    """
    kept = predicted_on_triggered == labels
    return _share(kept[labels != target], "robust accuracy")


def defense_effectiveness(
    *, accuracy_before: float, accuracy_after: float, success_before: float, success_after: float
) -> float:
    """Defense effectiveness rating (DER): 0.5 for doing nothing, 1 for a perfect repair.

    DER = (max(0, fall in attack success) - max(0, fall in accuracy) + 1) / 2.
    """
    gained = max(0.0, success_before - success_after)
    lost = max(0.0, accuracy_before - accuracy_after)
    return (gained - lost + 1) / 2


def _share(hits: Tensor, name: str) -> float:
    if hits.numel() == 0:
        raise ValueError(f"{name} is undefined: no image to measure on")
    return hits.double().mean().item()
