import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks import gpu, on_device
from benchmarks.device_bench import SMALL, Bench
from benchmarks.device_training import LEARNING_RATE, StackedClients
from benchmarks.on_device import SECTIONS
from fl_defense.screens.base import Screening
from simulations.models.small_cnn import SmallCNN

TINY = replace(
    SMALL, network=SmallCNN(width=4), shape=(1, 16, 16), num_images=32, batches=(8,), seconds=1e-9,
    processes=(1,), stacked=(2,), repair_batches=(4,), repair_steps=1, replies=2,
    faithful_iterations=1, faithful_batch=4,
)  # fmt: skip
BENCH = Bench(device=torch.device("cpu"), scale=TINY)
IN_PROCESS = ("training", "stacked", "compiled")
"""The repairs and screens that the others time have tests of their own, and take seconds."""


def train(bench: Bench) -> Any:
    yield {"batch_size": 8, "precision": "float32", "images_per_second": 1000.0, "seconds": 1.0}


def mend(bench: Bench) -> Any:
    yield {"what": "dhbe", "precision": "float32", "seconds": 50.0, "peak_mebibytes": 3.0}
    raise RuntimeError("out of memory\nand more")


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_section_tells_images_per_second(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its first use alone takes seconds.
    monkeypatch.setattr(nn.Module, "compile", lambda *_, backend: None)
    rows = list(SECTIONS[name][0](BENCH))
    assert rows
    for row in rows:
        assert row["images_per_second"] > 0
        json.dumps(row)
        assert "images/s" in gpu.told(row)


@pytest.mark.filterwarnings("ignore::fl_defense.sanitizers.NoEffectWarning")
@pytest.mark.parametrize("name", ["repair", "screening", "faithful"])
def test_a_section_times_what_it_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(on_device, "apply_sanitizer", lambda *each: asked.append(each[0]))
    monkeypatch.setattr(on_device.TriggerSearch, "inspect", lambda *_: asked.append("search"))
    monkeypatch.setattr(
        on_device.Attribution, "screen",
        lambda self, shown, spec, device: Screening.of_nobody(shown, keep_sent="x"),
    )  # fmt: skip
    rows = list(SECTIONS[name][0](BENCH))
    if name == "repair":
        said = [(row["what"], row["precision"], row["batch_size"]) for row in rows]
        assert said[:2] == [("dhbe", "float32", 4), ("dhbe", "bfloat16", 4)]
        assert [each.precision for each in asked] == [row["precision"] for row in rows]
    elif name == "faithful":
        assert [(row["iterations"], row["of"]) for row in rows] == [(1, 15_000)] * 2
        assert rows[0]["full_hours"] == pytest.approx(rows[0]["seconds"] * 15_000 / 3600)
    else:
        assert [row["what"] for row in rows] == ["attribution", "trigger-search"]
        assert asked == ["search"]


def test_clients_trained_in_one_pass_train_as_each_alone() -> None:
    torch.manual_seed(0)
    made: list[nn.Module] = []

    def build() -> nn.Module:
        made.append(SmallCNN(width=2, norm="none").build((1, 8, 8), 3))
        return made[-1]

    together = StackedClients(build, 2, torch.device("cpu"))
    inputs, labels = torch.rand(2, 4, 1, 8, 8), torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    together.step(inputs, labels)
    for client, network in enumerate(made):
        functional.cross_entropy(network(inputs[client]), labels[client]).backward()
        for name, weight in network.named_parameters():
            assert weight.grad is not None
            expected = weight - LEARNING_RATE * weight.grad
            torch.testing.assert_close(together.weights[name][client], expected)


def test_a_section_that_fails_keeps_its_rows_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sections = {"repair": (mend, 60.0), "training": (train, 60.0)}
    monkeypatch.setattr(gpu, "SECTIONS", sections)

    def here(name: str, bench: Bench, section: dict[str, Any], keep: Any) -> None:
        class Writer:
            def send(self, row: Any) -> None:
                if row is not None and "error" in row:
                    section["error"] = row["error"]
                elif row is not None:
                    section["rows"].append(row)
                keep()

        gpu._measure(name, bench, Writer())  # type: ignore[arg-type]

    monkeypatch.setattr(gpu, "run_section", here)
    out = tmp_path / "gpu.json"
    gpu.main(["--device", "cpu", "--small", "--images", str(tmp_path / "none"), "--out", str(out)])
    measured = json.loads(out.read_text())
    assert measured["sections"]["repair"]["error"] == "RuntimeError: out of memory"
    assert len(measured["sections"]["training"]["rows"]) == 1
    # 50,000 images take 50 s, and so does the repair.
    assert measured["sections"]["shares"]["rows"][0]["share"] == 0.5


def test_a_process_sends_rows_and_is_ended_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    section: dict[str, Any] = {"rows": [], "error": None}
    monkeypatch.setitem(gpu.SECTIONS, "training", (SECTIONS["training"][0], 0.0))
    gpu.run_section("training", BENCH, section, lambda: None)
    assert section["error"] == "TimeoutError: ended after 0 s"


def test_all_sections_end_within_eight_minutes() -> None:
    assert sum(limit for _, limit in SECTIONS.values()) < 480


def test_a_device_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--device", "warp-drive"])
    assert "--device warp-drive cannot be used" in capsys.readouterr().err


def test_images_are_read_or_drawn_and_said_so(tmp_path: Path) -> None:
    images, labels, origin = replace(BENCH, images=tmp_path / "gone").pictures()
    assert images.shape == (32, 1, 16, 16)
    assert images.dtype == torch.uint8
    assert len(labels) == 32
    assert origin.startswith("synthetic: FileNotFoundError")
