import json
from pathlib import Path

import pytest

from fl_defense.rounds.records import RoundRecord, append_record, read_records

KEYS = [
    "round",
    "num_replies",
    "num_rejected",
    "num_left_out",
    "num_failures",
    "sanitized",
    "accepted",
    "verdict",
    "agreement",
    "screen_seconds",
    "train_seconds",
    "sanitize_seconds",
    "verify_seconds",
    "details",
]


def test_a_line_has_the_documented_keys_in_order() -> None:
    assert list(json.loads(RoundRecord(round=1).to_json())) == KEYS


def test_written_records_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    records = [RoundRecord(round=0), RoundRecord(round=1, agreement=0.5, details={"a": 1.0})]
    for record in records:
        append_record(path, record)
    assert read_records(path) == records


def test_a_last_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    append_record(path, RoundRecord(round=0))
    with path.open("a") as file:
        file.write('{"round": 1, "accu')
    assert [record.round for record in read_records(path)] == [0]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_text("{}}\n" + RoundRecord(round=1).to_json() + "\n")
    with pytest.raises(ValueError, match=r"rounds\.jsonl:1: not a round record"):
        read_records(path)


def test_nan_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        RoundRecord(round=1, agreement=float("nan")).to_json()
