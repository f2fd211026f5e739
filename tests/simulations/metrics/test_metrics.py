from dataclasses import dataclass

import torch

from simulations.measurement.round_table import header, row
from simulations.metrics import (
    BackdoorMetric,
    BalancedAccuracy,
    Triggered,
    WorstClassAccuracy,
    measure_clean,
    measure_triggered,
)
from tests.simulations.measurement.test_measured_round import ROUND

LABELS = torch.tensor([0, 1, 1, 2])
TRIGGERED = Triggered(
    predicted=torch.tensor([0, 0, 1, 0]),
    labels=LABELS,
    wanted=torch.tensor([0, 0, 0, 2]),
    is_source=torch.tensor([True, True, True, False]),
)


def test_each_metric_by_hand() -> None:
    assert measure_clean(torch.tensor([0, 1, 2, 2]), LABELS) == {"accuracy": 0.75}
    assert measure_triggered(TRIGGERED) == {
        "attack_success_rate": 1 / 2,
        "robust_accuracy": 1 / 2,
        "non_source_accuracy": 0,
    }


def test_a_metric_from_outside_is_one_class() -> None:
    @dataclass(frozen=True, kw_only=True)
    class ConfusedRate(BackdoorMetric):
        name = "confused_rate"
        title = "neither class"
        column = "neither"

        def measure(self, triggered: Triggered) -> float:
            neither = (triggered.predicted != triggered.labels) & (
                triggered.predicted != triggered.wanted
            )
            return neither.double().mean().item()

    more = (ConfusedRate(),)
    assert measure_triggered(TRIGGERED, more)["confused_rate"] == 1 / 4
    assert "neither" in header(more)
    assert len(row(ROUND, more)) == len(header(more))


def test_classes_count_alike_however_many_images_they_have() -> None:
    predicted, labels = torch.tensor([0, 0, 0, 0, 1, 0]), torch.tensor([0, 0, 0, 0, 1, 1])
    rates = measure_clean(predicted, labels, (BalancedAccuracy(), WorstClassAccuracy()))
    assert rates == {
        "accuracy": 5 / 6, "balanced_accuracy": 0.75, "worst_class_accuracy": 0.5
    }  # fmt: skip


def test_the_table_of_rounds_has_a_cell_under_each_head() -> None:
    assert header().split()[:5] == ["round", "accuracy", "ASR", "before", "→"]
    shown = row(ROUND)
    assert shown.split()[:5] == ["2", "0.900", "-", "→", "-"]
    assert len(shown) == len(header())
