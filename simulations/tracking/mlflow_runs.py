"""Runs in MLflow: on its server, or in a database on this machine."""

import logging
import os
import time
from dataclasses import dataclass

from simulations.tracking.base import Sink, TrackedRun, Tracker, Values

FOLDER = "fl-defense.folder"
"""Tag by which a run is found again after an interruption."""
PARAMETERS_AT_ONCE, LONGEST_PARAMETER = 100, 500
"""What MLflow takes."""
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""A server that does not answer must not hold a federation up for minutes; what is set stays."""


@dataclass(frozen=True, kw_only=True)
class MLflow(Tracker):
    """A run in MLflow, with the scenario as its parameters and the rates as its metrics.

    Example:
        >>> MLflow(tracking_uri="http://127.0.0.1:5000").experiment
        'fl-defense'
    """

    tracking_uri: str | None = None
    """Address of MLflow's server or database, e.g. sqlite:///runs.db; null: as MLflow finds it,
    from MLFLOW_TRACKING_URI or in the working folder."""
    experiment: str = "fl-defense"
    """Name of MLflow's experiment, which is made if it is not there."""

    needs = ("mlflow",)

    def open(self, run: TrackedRun) -> Sink:
        """Begin a run, or go on with that of this results folder."""
        return _Run(run, self.tracking_uri, self.experiment)


class _Run:
    """One run of MLflow's, through its client: what others do with `mlflow` is left alone."""

    def __init__(self, run: TrackedRun, tracking_uri: str | None, experiment: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        # It tells of each table that it makes in a new database.
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        self._client = MlflowClient(tracking_uri=tracking_uri)
        known = self._client.get_experiment_by_name(experiment)
        number = known.experiment_id if known else self._client.create_experiment(experiment)
        folder = str(run.folder.resolve())
        found = self._client.search_runs([number], f"tags.`{FOLDER}` = {folder!r}", max_results=1)
        if run.finished and found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        begun = self._client.create_run(number, run_name=run.name, tags={FOLDER: folder})
        self._id = begun.info.run_id
        parameters = [
            Param(key, str(value)[:LONGEST_PARAMETER]) for key, value in run.settings.items()
        ]
        for first in range(0, len(parameters), PARAMETERS_AT_ONCE):
            some = parameters[first : first + PARAMETERS_AT_ONCE]
            self._client.log_batch(self._id, params=some)
        for server_round, values in run.finished:
            self.write(server_round, values)

    def write(self, server_round: int, values: Values) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, server_round) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "FAILED")
