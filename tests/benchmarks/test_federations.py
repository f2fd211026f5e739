import json
from pathlib import Path

import pytest

from benchmarks import federations
from simulations.metrics import columns

SCENARIO = """
name: small
rounds: 1
data: {name: digits, max-train: 80, max-test: 40}
model: {name: small-cnn, width: 4}
clients: {count: 2}
"""


def test_runs_that_are_not_measured_again_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, out = tmp_path / "small.yaml", tmp_path / "small.json"
    path.write_text(SCENARIO)
    kept = {"seed": 1, "rounds": 1, "last_three_rounds": {"released": dict.fromkeys(columns(), 0.5)},
            "seconds": {"training": 1.0, "repair": 0.0}, "num_repaired": 0, "num_refused": 0}  # fmt: skip
    replaced = kept | {"seed": 0}
    out.write_text(json.dumps({"a variant of old": [kept], "undefended": [replaced, kept]}))
    words = ["federations.py", str(path), "--seeds", "0", "--variants", "undefended"]
    # The file stands beside the script.
    monkeypatch.setattr(federations, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", words)
    federations.main()
    results = json.loads(out.read_text())
    assert list(results) == ["a variant of old", "undefended"]
    assert results["a variant of old"] == [kept]
    measured, untouched = results["undefended"]
    assert measured["seed"] == 0
    assert measured["scenario"] == "small"
    assert untouched == kept
