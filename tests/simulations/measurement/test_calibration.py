import json
from pathlib import Path
from typing import Any

import pytest

from fl_defense.rounds.records import RoundRecord, append_record
from simulations.measurement.calibration import calibrate
from simulations.scenario import ConfigError
from simulations.scenario.load import load_scenario

SCENARIO = """
name: quiet
data: {name: digits}
attack: {name: none}
defense: {name: none}
repair: {schedule: {on-suspicion: history}}
"""


def run_of(folder: Path, anomalies: list[float | None], *overrides: str) -> Path:
    folder.mkdir()
    given = folder / "given.yaml"
    given.write_text(SCENARIO)
    (folder / "scenario.yaml").write_text(load_scenario(given, overrides).to_yaml())
    for number, anomaly in enumerate(anomalies):
        details: dict[str, Any] = {} if anomaly is None else {"anomaly": anomaly}
        append_record(folder / "rounds.jsonl", RoundRecord(round=number, details=details))
    return folder


def test_the_bound_is_what_the_asked_share_of_rounds_exceeds(tmp_path: Path) -> None:
    folders = [
        run_of(tmp_path / "a", [None, *range(10)]),
        run_of(tmp_path / "b", [None, *range(10, 20)], "seed=1"),
    ]
    found = calibrate(folders, 0.1)
    assert found.anomalies == list(range(20))
    assert found.bound == 17
    assert sum(anomaly > found.bound for anomaly in found.anomalies) == 2


def test_what_cannot_be_calibrated_on_is_refused_in_one_line(tmp_path: Path) -> None:
    quiet = run_of(tmp_path / "quiet", [1.0] * 20)
    attacked = run_of(tmp_path / "attacked", [1.0], "attack.name=badnets")
    other = run_of(tmp_path / "other", [1.0], "partition.name=dirichlet")
    blind = run_of(tmp_path / "blind", [None, None])
    again = run_of(tmp_path / "again", [1.0])
    later = run_of(tmp_path / "later", [1.0], "repair.schedule.first-round=5")
    repaired = run_of(
        tmp_path / "repaired", [1.0], "defense.name=dhbe", "repair.broadcast=repaired"
    )
    broken = run_of(tmp_path / "broken", [1.0, 2.0])
    (broken / "rounds.jsonl").write_text("{\n" + json.dumps({"round": 1}) + "\n")
    for folders, rate, message in (
        ([tmp_path / "none"], 0.05, "scenario.yaml"),
        ([attacked], 0.05, r"attacked: has attackers; .* attack.name=none"),
        ([quiet, other], 0.05, r"other: partition differs from .*quiet"),
        ([quiet, again], 0.05, r"again: has the seed of .*quiet; name each run once"),
        ([quiet, later], 0.05, r"later: repair.schedule.first-round differs from .*quiet"),
        ([repaired], 0.05, r"repaired: its clients train on repaired models"),
        ([quiet], 1.5, r"calibrate: false_positive_rate must be in \(0, 1\), got 1.5"),
        ([blind], 0.05, r"blind: no round was inspected; .*on-suspicion=history"),
        ([broken], 0.05, r"broken: holds no readable run"),
        ([quiet], 0.01, r"calibrate: .* needs at least 100 benign models, got 20; take more"),
    ):
        with pytest.raises(ConfigError) as caught:
            calibrate(folders, rate)
        assert len(caught.value.faults) == 1
        assert caught.match(message)
