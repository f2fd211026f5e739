import json
from pathlib import Path

import pytest

from benchmarks import repair

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


def test_a_row_tells_its_training_and_memory_and_is_measured_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ("--seeds", "0", "--sanitizers", "none", "--max-train", "200")
    (row,) = run(monkeypatch, tmp_path, *grid)
    told = {
        name: row[name] for name in ("max_train", "epochs", "poison_rate", "target", "max_test")
    }
    assert told == {
        "max_train": 200, "epochs": 1, "poison_rate": 0.1, "target": 0, "max_test": 50,
    }  # fmt: skip
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("| digits | small-cnn | 200 x 1 | patch | none | 0 |")
    assert last.endswith(f"| – | {row['peak_mib']:.0f} |")
    # A row from before its training was stored gets it back without another measurement.
    old = {name: value for name, value in row.items() if name not in repair.TRAINING}
    (tmp_path / "rows.json").write_text(json.dumps([old]))
    monkeypatch.setattr(repair, "repair", lambda *_: 1 / 0)
    assert run(monkeypatch, tmp_path, *grid) == [row]


def row_of(seed: int, **values: object) -> dict[str, object]:
    rates = {"accuracy": 0.9, "attack_success_rate": seed / 10, "robust_accuracy": 0.5}
    return {
        "data": "digits", "model": "small-cnn", "trigger": "patch", "sanitizer": "dhbe",
        "is": "DHBE()", "seed": seed, "max_train": 100, "epochs": 5, "before": rates,
        "after": rates, "floor": None, "der": 0.5, "seconds": 1.0, "forward_images": None,
        "peak_mib": 100.0 * (seed + 1),
    } | values  # fmt: skip


def test_means_are_over_seeds_and_over_nothing_else() -> None:
    old = row_of(7)
    del old["max_train"], old["epochs"]
    rows = [row_of(0), row_of(1), row_of(2, epochs=20), row_of(3, max_train=None),
            row_of(4, **{"is": "DHBE(iterations=9)"}), old]  # fmt: skip
    head, rule, *lines = repair.table(rows).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    seeds_at = [cell.strip() for cell in head.strip("|").split("|")].index("seeds")
    assert [(line[2], line[seeds_at]) for line in cells] == [
        ("100 x 5", "0, 1"), ("100 x 20", "2"), ("all x 5", "3"), ("100 x 5", "4"), ("? x ?", "7"),
    ]  # fmt: skip
    assert {len(line) for line in cells} == {rule.count("---")} == {head.count("|") - 1}
    assert cells[0][-1] == "200"
