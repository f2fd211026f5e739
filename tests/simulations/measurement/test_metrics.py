import pytest
import torch

from simulations.measurement.metrics import METRICS, measure_clean, measure_triggered
from simulations.measurement.metrics.base import BackdoorMetric, Triggered
from simulations.measurement.round_table import header, row
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


def test_a_metric_from_outside_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class ConfusedRate(BackdoorMetric):
        title = "neither class"
        column = "neither"

        def measure(self, triggered: Triggered) -> float:
            neither = (triggered.predicted != triggered.labels) & (
                triggered.predicted != triggered.wanted
            )
            return neither.double().mean().item()

    monkeypatch.setitem(METRICS, "confused_rate", ConfusedRate())
    assert measure_triggered(TRIGGERED)["confused_rate"] == 1 / 4
    assert "neither" in header()
    assert len(row(ROUND)) == len(header())


def test_the_table_of_rounds_has_a_cell_under_each_head() -> None:
    assert header().split()[:5] == ["round", "accuracy", "ASR", "before", "→"]
    shown = row(ROUND)
    assert shown.split()[:5] == ["2", "0.900", "-", "→", "-"]
    assert len(shown) == len(header())
