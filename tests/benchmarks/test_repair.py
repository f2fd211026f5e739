import json
from pathlib import Path

import pytest
import repair

SMALL = ("--data", "digits", "--triggers", "patch", "--model", "small-cnn", "--epochs", "1",
         "--max-test", "50")  # fmt: skip


def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str
) -> list[dict[str, object]]:
    out = tmp_path / "rows.json"
    words = ["repair.py", *SMALL, "--cache", str(tmp_path / "cache"), "--out", str(out),
             "--device", "cpu", *arguments]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    repair.main()
    return json.loads(out.read_text())


def test_the_full_grid_says_which_row_it_skips_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run(monkeypatch, tmp_path, "--full", "--model", "small-cnn", "--epochs", "1",
               "--seeds", "0", "--sanitizers", "bcu on own data", "none")  # fmt: skip
    assert [row["sanitizer"] for row in rows] == ["none"]
    told = capsys.readouterr().out
    assert "skipped bcu on own data: the victim was trained on all 1437 images of digits" in told
