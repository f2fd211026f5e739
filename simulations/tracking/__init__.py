"""Where else a run is written: trackers of experiments. A tracker is one file and one line here."""

from simulations.tracking.base import Sink, TrackedRun, Tracker
from simulations.tracking.csv_table import CSVTable
from simulations.tracking.mlflow_runs import MLflow
from simulations.tracking.tensorboard_events import TensorBoard

TRACKERS: dict[str, type[Tracker]] = {
    "csv": CSVTable,
    "mlflow": MLflow,
    "tensorboard": TensorBoard,
}
"""Trackers by the name that a scenario gives."""

__all__ = ["TRACKERS", "CSVTable", "MLflow", "Sink", "TensorBoard", "TrackedRun", "Tracker"]
