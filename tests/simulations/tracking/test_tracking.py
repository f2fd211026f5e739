"""Rounds that trackers take, read back by the libraries whose files they are."""

import csv
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fl_defense.rounds.records import RoundRecord
from simulations.data import Digits
from simulations.engines import InProcessEngine
from simulations.federation.run import resume_run, run_scenario
from simulations.measurement.measured_round import MeasuredRound
from simulations.measurement.results_folder import ResultsFolder, read_rounds
from simulations.measurement.tracking import Tracking, tracked, values_of
from simulations.models.small_cnn import SmallCNN
from simulations.scenario import ConfigError
from simulations.scenario.load import load_scenario
from simulations.scenario.scenario import Clients, Scenario
from simulations.tracking import CSVTable, MLflow, Sink, TensorBoard, TrackedRun, Tracker

SCENARIO = Scenario(
    name="small",
    rounds=2,
    data=Digits(max_train=40, max_test=40),
    model=SmallCNN(width=4),
    clients=Clients(count=2),
    engine=InProcessEngine(),
)


def measured(server_round: int, accuracy: float | None, **facts: Any) -> MeasuredRound:
    rates = {} if accuracy is None else {"released": {"accuracy": accuracy}}
    return MeasuredRound(record=RoundRecord(round=server_round, **facts), rates=rates)


ROUNDS = [measured(0, 0.125), measured(1, None), measured(2, 0.75, agreement=0.5)]


def track(tracker: Tracker, folder: Path, rounds: list[MeasuredRound] = ROUNDS) -> None:
    scenario = SCENARIO.model_copy(update={"tracking": (tracker,)})
    with tracked(scenario, folder) as tracking:
        for each in rounds:
            tracking.write(each)


def track_on(tracker: Tracker, folder: Path) -> None:
    """As after a crash in round 2, whose line was written and then dropped with its checkpoint."""
    scenario = SCENARIO.model_copy(update={"tracking": (tracker,)})
    first = Tracking(scenario, folder)
    for each in (*ROUNDS[:2], measured(2, 0.25)):
        first.write(each)
    with tracked(scenario, folder, ROUNDS[:2]) as again:
        again.write(ROUNDS[2])


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "rounds.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_table_has_a_line_for_each_round_and_a_column_for_each_value(tmp_path: Path) -> None:
    track(CSVTable(), tmp_path)
    rows = table(tmp_path)
    assert [row["round"] for row in rows] == ["0", "1", "2"]
    assert [row["released/accuracy"] for row in rows] == ["0.125", "", "0.75"]
    # The column that came last is empty in the rounds before.
    assert [row["server/agreement"] for row in rows] == ["", "", "0.5"]


def test_a_table_goes_on_after_a_crash_without_the_round_that_was_lost(tmp_path: Path) -> None:
    track_on(CSVTable(), tmp_path)
    assert [row["released/accuracy"] for row in table(tmp_path)] == ["0.125", "", "0.75"]


def scalars(folder: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert "server/agreement" in events.Tags()["scalars"]
    assert "scenario/text_summary" in events.Tags()["tensors"]
    return [(event.step, event.value) for event in events.Scalars("released/accuracy")]


def test_tensorboard_reads_the_rounds(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    track(TensorBoard(), tmp_path)
    assert scalars(tmp_path) == [(0, 0.125), (2, 0.75)]


def test_tensorboard_drops_the_round_that_a_crash_lost(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    track_on(TensorBoard(), tmp_path)
    assert scalars(tmp_path) == [(0, 0.125), (2, 0.75)]


def test_mlflow_reads_the_rounds_and_finds_the_run_again(tmp_path: Path) -> None:
    client_of = pytest.importorskip(
        "mlflow", reason="the extra mlflow is not installed"
    ).MlflowClient
    address = f"sqlite:///{tmp_path / 'runs.db'}"
    tracker = MLflow(tracking_uri=address, experiment="mine")
    (tmp_path / "it's here").mkdir()
    track_on(tracker, tmp_path / "it's here")
    failed = SCENARIO.model_copy(update={"tracking": (tracker,)})
    with pytest.raises(KeyboardInterrupt), tracked(failed, tmp_path):
        raise KeyboardInterrupt
    client = client_of(tracking_uri=address)
    number = client.get_experiment_by_name("mine").experiment_id
    runs = {run.info.status: run for run in client.search_runs([number])}
    assert runs.keys() == {"FINISHED", "FAILED"}
    run = runs["FINISHED"]
    assert run.info.run_name == "small-seed0"
    assert run.data.params["model.width"] == "4"
    history = client.get_metric_history(run.info.run_id, "released/accuracy")
    assert {each.step: each.value for each in history} == {0: 0.125, 2: 0.75}


def test_a_run_writes_where_its_scenario_says(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SCENARIO.model_copy(update={"tracking": (CSVTable(),)}).to_yaml())
    result = run_scenario(load_scenario(path, ["tracking=[csv]"]), tmp_path / "out")
    rows = table(tmp_path / "out")
    assert [row["round"] for row in rows] == ["0", "1", "2"]
    for row, each in zip(rows, result.records, strict=True):
        told = {name: float(value) for name, value in row.items() if value and name != "round"}
        assert told == dict(values_of(each))


@pytest.mark.parametrize("given", ["csv", "{name: csv}", "[csv]", "[{name: csv}]"])
def test_a_name_alone_will_do(given: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\ntracking: {given}\n")
    scenario = load_scenario(path)
    assert scenario.tracking == (CSVTable(),)
    path.write_text(scenario.to_yaml())
    assert load_scenario(path) == scenario


def test_a_wrong_name_is_told_with_those_that_are_known(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\ntracking: tensorbord\n")
    with pytest.raises(ConfigError) as caught:
        load_scenario(path)
    assert caught.value.faults == [
        f"{path}: tracking: 'tensorbord' is not one of csv, mlflow, tensorboard, "
        "package.module:Class; did you mean 'tensorboard'?"
    ]


def test_a_tracker_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="tracking: csv is named twice"):
        Scenario(name="x", tracking=["csv", "csv"])
    other = {"name": "mlflow", "experiment": "other"}
    assert len(Scenario(name="x", tracking=["mlflow", other]).tracking) == 2


@dataclass(frozen=True, kw_only=True)
class Breaks(Tracker):
    """Fails at one of its calls."""

    at: str
    asked: list[str] = field(default_factory=list)

    def open(self, run: TrackedRun) -> Sink:
        self._step("open")
        return Breaking(self)

    def _step(self, name: str) -> None:
        self.asked.append(name)
        if name == self.at:
            raise OSError(28, "No space left\non device")


class Breaking:
    """What `Breaks` opens."""

    def __init__(self, tracker: Breaks) -> None:
        self.step = tracker._step

    def write(self, server_round: int, values: Any) -> None:
        self.step("write")

    def close(self, *, finished: bool) -> None:
        self.step("close")


@pytest.mark.parametrize(
    ("at", "asked"),
    [("open", ["open"]), ("write", ["open", "write"]),
     ("close", ["open", "write", "write", "write", "close"])],
)  # fmt: skip
def test_a_tracker_that_fails_is_told_of_once_and_costs_nothing(
    at: str, asked: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Breaks(at=at)
    scenario = SCENARIO.model_copy(update={"tracking": (broken, CSVTable())})
    run_scenario(scenario, tmp_path / "out")
    assert broken.asked == asked
    (line,) = (each.getMessage() for each in caplog.records if "tracking" in each.getMessage())
    assert "Breaks failed (OSError: [Errno 28] No space left on device); the run goes on" in line
    assert len(table(tmp_path / "out")) == 3
    assert json.loads((tmp_path / "out/summary.json").read_text())["rounds"] == 2


def test_a_run_that_goes_on_is_tracked_from_its_first_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = SCENARIO.model_copy(update={"tracking": (CSVTable(),)})
    append = ResultsFolder.append

    def cut_off(folder: ResultsFolder, record: MeasuredRound) -> None:
        append(folder, record)
        if record.round == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ResultsFolder, "append", cut_off)
        with pytest.raises(OSError, match="No space"):
            run_scenario(scenario, tmp_path / "out")
    (tmp_path / "out/rounds.csv").write_text("lost\n")
    resume_run(tmp_path / "out")
    assert [row["round"] for row in table(tmp_path / "out")] == ["0", "1", "2"]
    assert len(read_rounds(tmp_path / "out")) == 3


def test_a_tracker_whose_package_is_missing_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    scenario = SCENARIO.model_copy(update={"tracking": (MLflow(), NeedsMore())})
    with pytest.raises(ConfigError) as caught:
        run_scenario(scenario, tmp_path / "out")
    assert caught.value.faults == [
        "mlflow: not installed; pip install 'fl-defense[mlflow]'",
        "nobodys_package: not installed; pip install 'nobodys_package'",
    ]
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True, kw_only=True)
class NeedsMore(Tracker):
    """Needs what no extra brings."""

    needs = ("nobodys_package",)

    def open(self, run: TrackedRun) -> Sink:
        raise AssertionError(run)


def test_numbers_of_each_backdoor_are_told_apart() -> None:
    rates = {"released": {"attack_success_rate": 0.5}}
    one = MeasuredRound(record=RoundRecord(round=1, details={"anomaly": float("inf")}),
                        rates=rates, backdoors=[rates])  # fmt: skip
    assert not [name for name in dict(values_of(one)) if "backdoor" in name or "anomaly" in name]
    two = MeasuredRound(record=one.record, rates=rates, backdoors=[rates, rates])
    assert dict(values_of(two))["backdoor.1/released/attack_success_rate"] == 0.5
