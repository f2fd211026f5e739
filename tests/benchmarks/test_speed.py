import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from benchmarks import speed
from fl_defense.model.spec import ModelSpec


def test_repairs_are_told_in_images_of_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = iter([0.0, 9.0, *[0.0, 4.0, 10.0, 50.0] * 2])
    monkeypatch.setattr("benchmarks.speed.time.perf_counter", clock.__next__)
    trained: list[nn.Module] = []
    repaired: list[nn.Module] = []

    def train(model: nn.Module, spec: ModelSpec) -> None:
        trained.append(model)

    def repair(model: nn.Module, spec: ModelSpec) -> None:
        assert not model.training
        repaired.append(model)

    monkeypatch.setattr(speed, "train", train)
    monkeypatch.setattr(speed, "works", lambda: {("dhbe", "float32"): repair})
    out = tmp_path / "speed.json"
    old = {"model": "resnet-18", "shape": [3, 32, 32], "device": "cpu, 1 threads", "rows": []}
    out.write_text(json.dumps([old]))
    words = ["speed.py", "--models", "small-cnn", "--shape", "1", "8", "8", "--repeats", "2",
             "--device", "cpu", "--out", str(out)]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    speed.main()
    kept, result = json.loads(out.read_text())
    assert kept == old
    assert (len(trained), len(repaired)) == (3, 2)
    # 4 s for 2,000 images of training; 40 s for a repair.
    assert result["training_ms_per_image"] == 2
    (row,) = result["rows"]
    assert (row["seconds"], row["images"]) == (40, 20_000)
    assert "| dhbe | float32 | 40.0 | 20,000 [20,000, 20,000] |" in speed.table([result])


def test_what_is_timed_is_each_repair_in_each_precision() -> None:
    timed: Any = speed.works()
    repairs = ("dhbe", "deep-sanitizer", "deep-sanitizer-quick")
    expected = {(name, precision) for name in repairs for precision in ("float32", "bfloat16")}
    assert set(timed) == {*expected, ("trigger-search", "float32")}
    assert timed["dhbe", "bfloat16"].args[0].precision == "bfloat16"
