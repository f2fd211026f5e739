import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from fl_defense.rounds.records import RoundRecord, append_record
from simulations.measurement.measured_round import STAGES, MeasuredRound
from simulations.measurement.results_folder import read_rounds
from simulations.metrics import METRICS
from simulations.scenario import ConfigError

ROUND = MeasuredRound(
    record=RoundRecord(round=2, num_replies=4, details={"anomaly": 1.5}),
    malicious=[1],
    rates={"released": {"accuracy": 0.9}},
    backdoors=[{"released": {"attack_success_rate": 0.1}}],
    evaluate_seconds=0.5,
)


def test_a_line_holds_the_record_and_the_rates_side_by_side() -> None:
    line = json.loads(ROUND.to_json())
    assert line["round"] == 2
    assert line["details"] == {"anomaly": 1.5}
    assert line["rates"] == {"released": {"accuracy": 0.9}}
    assert "record" not in line


def test_a_written_round_is_read_back(tmp_path: Path) -> None:
    append_record(tmp_path / "rounds.jsonl", ROUND)
    assert read_rounds(tmp_path) == [ROUND]


def test_a_key_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    line = json.dumps(json.loads(ROUND.to_json()) | {"accuracy": 0.9})
    (tmp_path / "rounds.jsonl").write_text(line + "\n" + ROUND.to_json() + "\n")
    with pytest.raises(ConfigError, match=r"not a round record .*'accuracy'"):
        read_rounds(tmp_path)


def test_a_rate_that_was_not_measured_is_none() -> None:
    assert ROUND.rate("released", "accuracy") == 0.9
    assert ROUND.rate("released", "attack_success_rate") is None
    assert ROUND.rate("unpurified", "accuracy") is None


def test_every_key_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/records.md").read_text()
    documented = set(re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE))
    keys = {each.name for cls in (RoundRecord, MeasuredRound) for each in fields(cls)} - {"record"}
    assert keys | set(STAGES) | {kind.name for kind in METRICS.values()} <= documented
