import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from fl_defense.inspections import FreeEagle, TriggerSearch
from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import ModelSpec, Pixels
from simulations.cli import model_tasks
from simulations.cli.main import app
from simulations.cli.model_tasks import InspectRequest
from simulations.data import Digits
from simulations.models.small_cnn import SmallCNN
from tests.backdoored import Backdoored
from tests.quick import SEARCH_IN_YAML

FORM = ("--input-shape", "1,16,16", "--classes", "10")
MODEL = ("--model", "{name: small-cnn, width: 16}")
BAR = ("--set", "verify={name: trigger-search, bar-of-small-images: 3}")
QUICK = ("--set", "defense.threshold=2", "--set", "verify=null")


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def victim(backdoored: Backdoored, tmp_path: Path) -> Path:
    path = tmp_path / "victim.safetensors"
    save_file(backdoored.model.state_dict(), path)
    return path


def test_repair_writes_weights_that_fit(victim: Path, tmp_path: Path) -> None:
    out = tmp_path / "clean.pt"
    result = call("repair", victim, "--out", out, "--defense", "clp", *MODEL, *FORM, *QUICK)
    assert result.exit_code == 0, result.output
    assert f"repaired:            {out}" in result.stdout
    assert "CLP(threshold=2.0)" in result.stdout
    repaired = torch.load(out, weights_only=True)
    SmallCNN(width=16).build((1, 16, 16), 10).load_state_dict(repaired)
    before = load_file(victim)
    assert any(not torch.equal(repaired[name], before[name]) for name in before)


def test_a_missing_file_is_told_before_what_else_is_missing(tmp_path: Path) -> None:
    result = call("inspect", tmp_path / "nothing.pt")
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path / 'nothing.pt'}: no such file; name a model file\n"


def test_several_defenses_run_in_order_and_json_tells_all(victim: Path, tmp_path: Path) -> None:
    result = call(
        "repair", victim, "--out", tmp_path / "clean.safetensors", *MODEL, *FORM, "--json",
        "--set", "verify=null", "--set", "min-agreement=0", "--defense", "{name: clp, threshold: 2}",
        "--defense", "{name: dhbe, iterations: 2, num-scenes: 32, batch-size: 8}",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["details"]["1.CLP.num_pruned"] > 0
    assert report["details"]["2.DHBE.forward_images"] > 0
    assert 0 < report["agreement"] <= 1
    assert report["notes"] == []


def test_a_preset_and_a_field_are_taken(victim: Path, tmp_path: Path) -> None:
    result = call(
        "repair", victim, "--out", tmp_path / "x.pt", "--defense", "dhbe", "--preset", "faithful",
        "--set", "defense.iterations=1", "--set", "defense.batch-size=4",
        "--set", "defense.generators.width=4", "--set", "verify=null",
        "--set", "min-agreement=0", *MODEL, *FORM,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "student_steps=5" in result.stdout
    assert "iterations=1," in result.stdout


def test_a_repair_that_changes_what_the_model_says_is_no_repair(
    victim: Path, tmp_path: Path
) -> None:
    result = call(
        "repair", victim, "--out", tmp_path / "x.pt", *MODEL, *FORM, "--set", "verify=null",
        "--defense", "{name: clp, threshold: 0.1}",
    )  # fmt: skip
    assert result.exit_code == 3
    assert "verdict:             not repaired" in result.stdout
    assert re.search(r"it does harm: agreement 0\.\d+ is below 0\.5", result.stdout)


def test_a_repair_that_leaves_the_trigger_is_written_and_has_its_own_exit_code(
    victim: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    weak = ("--defense", "{name: dhbe, iterations: 1, num-scenes: 32}", *BAR)
    result = call("repair", victim, "--out", out, *MODEL, *FORM, *weak)
    assert result.exit_code == 3
    assert out.exists()
    assert "verdict:             not repaired" in result.stdout
    assert "reason:              before: patch to class 0, anomaly" in result.stdout


def test_doing_nothing_is_told(victim: Path, tmp_path: Path) -> None:
    result = call("repair", victim, "--out", tmp_path / "x.pt", *MODEL, *FORM,
                  "--set", f"verify={SEARCH_IN_YAML}",
                  "--defense", "{name: clp, threshold: 50}")  # fmt: skip
    assert "notes:               CLP left the model unchanged" in result.stdout


def test_evaluate_measures_what_the_library_measures(victim: Path, backdoored: Backdoored) -> None:
    result = call("evaluate", victim, *MODEL, "--data", "digits", "--trigger", "patch", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    expected = backdoored.measure(DeployedModel(backdoored.model, backdoored.spec.pixels))
    found = tuple(report[name] for name in ("accuracy", "attack_success_rate", "robust_accuracy"))
    assert found == pytest.approx(expected, abs=0.01)
    assert report["images"] == 360


def test_without_a_trigger_accuracy_alone_is_measured(victim: Path) -> None:
    result = call("evaluate", victim, *MODEL, "--data", "digits")
    assert "accuracy:            0.9" in result.stdout
    assert "attack" not in result.stdout


def test_a_results_folder_needs_no_further_words(tmp_path: Path) -> None:
    scenario = tmp_path / "small.yaml"
    scenario.write_text(
        "name: small\nrounds: 1\ndata: {name: digits, max-train: 80, max-test: 40}\n"
        "model: {name: small-cnn, width: 4}\nclients: {count: 2}\nengine: {name: in-process}\n"
    )
    folder = tmp_path / "out"
    assert call("run", scenario, "--quiet", "--out", folder).exit_code == 0
    out = tmp_path / "clean.safetensors"
    result = call("repair", folder / "model.safetensors", "--defense", "clp", "--out", out, *QUICK,
                  "--set", "defense.threshold=0.5", "--set", "min-agreement=0")  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(call("evaluate", folder / "model.safetensors", "--json").stdout)
    summary = json.loads((folder / "rounds.jsonl").read_text().splitlines()[-1])
    assert report["accuracy"] == summary["rates"]["released"]["accuracy"]
    assert report["attack_success_rate"] == summary["rates"]["released"]["attack_success_rate"]


def test_a_target_without_a_trigger_is_refused(victim: Path) -> None:
    result = call("evaluate", victim, *MODEL, "--data", "digits", "--target", "0")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: --target: needs --trigger, got 0 alone; name the trigger, or change the scenario's "
        "with --set backdoor.target=0\n"
    )


@pytest.mark.parametrize(
    ("options", "pixels"),
    [
        ((), Digits.pixels),
        (("--mean", "0.4"), Pixels(mean=(0.4,), std=Digits.pixels.std)),
        (("--std", "0.4"), Pixels(mean=Digits.pixels.mean, std=(0.4,))),
        (
            ("--std", "0.4", "--set", "pixels.std=[0.7]"),
            Pixels(mean=Digits.pixels.mean, std=(0.7,)),
        ),
        (("--set", "pixels.mean=[0.1]"), Pixels(mean=(0.1,), std=Digits.pixels.std)),
    ],
)
def test_a_mean_alone_keeps_the_scenarios_deviation(
    options: tuple[str, ...], pixels: Pixels, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Pixels] = []

    def inspect(request: InspectRequest, *args: object, **kwargs: object) -> dict[str, Any]:
        read.append(request.pixels)
        return {"posteriors": [], "verdict": "nothing found"}

    monkeypatch.setattr(InspectRequest, "inspect", inspect)
    victim.with_name("scenario.yaml").write_text("name: x\nmodel: {name: small-cnn, width: 16}\n")
    result = call("inspect", victim, *options)
    assert result.exit_code == 0, result.output
    assert read == [pixels]


def test_anybodys_network(tmp_path: Path) -> None:
    torchvision_models = pytest.importorskip("torchvision.models")
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision_models.resnet18(num_classes=7).state_dict(), path)
    result = call(
        "repair", path, "--out", tmp_path / "clean.pth", "--defense", "clp",
        "--model", "torchvision.models:resnet18", "--input-shape", "3,32,32", "--classes", "7",
        "--mean", "0.5,0.4,0.4", "--std", "0.2", "--json",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "mean and std must have the same length" in result.output
    result = call(
        "repair", path, "--out", tmp_path / "clean.pth", "--defense", "clp",
        "--model", "torchvision.models:resnet18", "--input-shape", "3,32,32", "--classes", "7",
        "--mean", "0.5,0.4,0.4", "--std", "0.2,0.2,0.2", "--set", "verify=null",
        "--set", "min-agreement=0", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["details"]["num_channels"] == 4800


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--model", "resnt"), "error: model: 'resnt' is not one of small-cnn, resnet"),
        (("--model", "small-cnn"), "'0.weight' must be (32, 1, 3, 3), got (16, 1, 3, 3)"),
        (("--model", "{name: x"), "neither a name nor a mapping"),
        (("--defense", "clip"), "error: defense: 'clip' is not one of"),
        (("--preset", "fast"), "defense: preset: 'fast' is not one of (it has none)"),
        (("--set", "defense.threshold=0"), "error: defense: threshold must be positive, got 0"),
        (("--set", "defence.threshold=0"), "error: defence: unknown key; did you mean 'defense'?"),
        (("--input-shape", "1,16"), "error: input-shape"),
        (("--classes", "1"), "error: classes: input should be greater than or equal to 2, got 1"),
        (("--device", "tpu"), "--device must be auto, cpu or cuda, got 'tpu'"),
        (("--out", "x.onnx"), "x.onnx: must end in one of"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    changed: tuple[str, str], message: str, victim: Path, tmp_path: Path
) -> None:
    options = {"--model": MODEL[1], "--defense": "clp", "--out": str(tmp_path / "clean.pt")}
    options |= {"--input-shape": "1,16,16", "--classes": "10"}
    options |= dict([changed])
    result = call("repair", victim, *(word for option in options.items() for word in option))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "clean.pt").exists()


def test_a_defense_that_refuses_the_network_says_why(tmp_path: Path) -> None:
    path = tmp_path / "group.pt"
    torch.save(SmallCNN(width=4, norm="group").build((1, 16, 16), 10).state_dict(), path)
    result = call("repair", path, "--out", tmp_path / "x.pt", "--defense", "clp", *FORM,
                  "--model", "{name: small-cnn, width: 4, norm: group}")  # fmt: skip
    assert result.exit_code == 2
    assert result.stderr.startswith("error: defense: CLP measures convolutions followed by")


RESNET = ("--model", "torchvision.models:resnet18")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", *RESNET, "--data", "digits"), "model: takes no images of 1x16x16 (RuntimeError: "),
        (("inspect", *RESNET, *FORM), "model: takes no images of 1x16x16 (RuntimeError: "),
        (("repair", *RESNET, *FORM, "--defense", "clp"), "model: takes no images of 1x16x16 (RuntimeError: "),
        (("repair", "--model", "{name: torchvision.models:resnet18, arguments: {wdth: 3}}", *FORM, "--defense", "clp"),
         "model: torchvision.models:resnet18 cannot be called with {'num_classes': 10, 'wdth': 3}"),
        (("inspect", *MODEL, "--input-shape", "1,2,2", "--classes", "10"), "model: takes no images of 1x2x2"),
    ],
)  # fmt: skip
def test_a_network_that_does_not_fit_the_images_is_one_line_and_exit_2(
    arguments: tuple[str, ...], message: str, victim: Path, tmp_path: Path
) -> None:
    command, *rest = arguments
    out = tmp_path / "x.pt"
    result = call(command, victim, *rest, *(("--out", out) if command == "repair" else ()))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
    assert not out.exists()


def test_what_is_missing_is_told_at_once(victim: Path, tmp_path: Path) -> None:
    result = call("repair", victim, "--out", tmp_path / "x.pt", "--defense", "clp")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: --model: is missing; add it",
        "error: --input-shape: is missing; add it",
        "error: --classes: is missing; add it",
    ]


def test_a_trigger_that_does_not_fit_is_told(victim: Path) -> None:
    result = call("evaluate", victim, *MODEL, "--data", "digits", "--trigger",
                  "{name: patch, size: 40}")  # fmt: skip
    assert result.exit_code == 2
    assert "size 40" in result.stderr


PURIFY = "{name: deep-cleanse, num-images: 40, num-limit-images: 20, completion-steps: 5}"


def test_a_purifier_is_exported_with_its_model(
    victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is written is tested in test_model_files.py; tracing takes seconds.
    written: list[tuple[Path, DeployedModel]] = []
    monkeypatch.setattr(
        model_tasks, "export_deployed", lambda path, model, _: written.append((path, model))
    )
    out = tmp_path / "clean.pt2"
    result = call("repair", victim, "--out", out, *MODEL, *FORM, "--defense", PURIFY)
    assert result.exit_code == 0, result.output
    ((path, deployed),) = written
    assert path == out
    assert deployed.purify is not None


@pytest.mark.parametrize("before", [(), ("--defense", "dhbe")])
def test_a_purifier_is_never_dropped_and_that_is_told_before_anything_is_computed(
    before: tuple[str, ...], victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_tasks, "apply_sanitizer", lambda *_, **__: 1 / 0)
    out = tmp_path / "clean.pt"
    result = call("repair", victim, "--out", out, *MODEL, *FORM, *before, "--defense", PURIFY)
    assert result.exit_code == 2
    assert "--out: the defense purifies images, which .pt cannot hold" in result.stderr
    assert not out.exists()


def test_inspect_finds_a_trigger_and_draws_it(victim: Path, tmp_path: Path) -> None:
    picture = tmp_path / "trigger.png"
    low = ("--inspection", "{name: trigger-search, bar-of-small-images: 0.1}")
    result = call("inspect", victim, *MODEL, *FORM, *low, "--picture", picture, "--json")
    assert result.exit_code == 3, result.output
    report = json.loads(result.stdout)
    network = SmallCNN(width=16).build((1, 16, 16), 10)
    network.load_state_dict(load_file(victim))
    spec = ModelSpec(build=lambda: network, input_shape=(1, 16, 16), num_classes=10)
    found = TriggerSearch().inspect(network.eval(), spec)
    assert report["anomaly"] == pytest.approx(found.anomaly, rel=1e-3)
    assert (report["verdict"], report["bar"]) == ("suspected", 0.1)
    assert report["normalised_by"] == {"mean": [0.5], "std": [0.25]}
    assert report["place"] == list(found.place)
    assert torch.allclose(torch.tensor(report["patch"]), found.patch, atol=1e-5)
    assert Image.open(picture).size[0] > 300
    high = ("--inspection", "{name: trigger-search, bar-of-small-images: 1000}")
    quiet = call("inspect", victim, *MODEL, *FORM, *high)
    assert quiet.exit_code == 0
    shown = quiet.stdout
    assert "verdict:             not judged" in shown
    assert "not calibrated for such a model: images of 16x16, below 28 pixels" in shown
    assert f"suspected class:     {found.suspected_class}" in shown
    assert "kind:                patch" in shown
    assert "patch:" not in shown


def test_inspect_names_a_class_and_draws_the_matrix(victim: Path, tmp_path: Path) -> None:
    picture = tmp_path / "matrix.png"
    eagle = ("--inspection", "{name: freeeagle, steps: 20}")
    result = call("inspect", victim, *MODEL, *FORM, *eagle, "--picture", picture, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    network = SmallCNN(width=16).build((1, 16, 16), 10)
    network.load_state_dict(load_file(victim))
    spec = ModelSpec(build=lambda: network, input_shape=(1, 16, 16), num_classes=10)
    found = FreeEagle(steps=20).inspect(network.eval(), spec)
    assert report["anomaly"] == pytest.approx(found.anomaly)
    assert report["suspected_class"] == found.suspected_class
    assert torch.allclose(torch.tensor(report["posteriors"]), found.posteriors, atol=1e-5)
    assert Image.open(picture).size[0] > 300
    shown = call("inspect", victim, *MODEL, *FORM, *eagle).stdout
    assert f"suspected class:     {found.suspected_class}" in shown
    assert "posteriors" not in shown


def test_inspect_tells_where_a_network_can_be_cut(victim: Path) -> None:
    result = call(
        "inspect", victim, *MODEL, *FORM, "--inspection", "freeeagle", "--inspect-at", "99"
    )
    assert result.exit_code == 2
    assert "error: model: the model has no submodule '99'; possible: 0, 1," in result.stderr


def test_a_preset_is_of_one_defense(victim: Path, tmp_path: Path) -> None:
    for defenses in (["dhbe", "clp"], ["[{name: clp}, {name: dhbe}]"]):
        named = [word for name in defenses for word in ("--defense", name)]
        result = call("repair", victim, "--out", tmp_path / "x.pt", *named, "--preset", "faithful")
        assert result.exit_code == 2, result.output
        assert "error: --preset: is of one defense, got several" in result.stderr


def test_a_repair_that_diverges_is_one_line(victim: Path, tmp_path: Path) -> None:
    wild = "{name: dhbe, iterations: 3, student-lr: 1e30, tolerated-gain: 0, num-scenes: 64}"
    out = tmp_path / "x.pt"
    result = call("repair", victim, "--out", out, "--defense", wild, *MODEL, *FORM)
    assert result.exit_code == 2, result.output
    assert "error: defense: DHBE: the result must be finite" in result.stderr
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize("command", ["inspect", "evaluate", "repair"])
def test_a_scenario_that_lies_beside_a_model_runs_no_code(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only `--trust` imports what such a file names."""
    mark = tmp_path / "was here"
    (tmp_path / f"hostile_{command}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(1)}, model)
    model.with_name("scenario.yaml").write_text(
        f"name: x\nmodel: {{name: 'hostile_{command}:Net'}}\n"
    )
    options = ["--out", str(tmp_path / "out.pt"), "--defense", "clp"] * (command == "repair")
    result = call(command, model, *options)
    assert result.exit_code == 2, result.output
    assert f"hostile_{command}" in result.output
    assert not mark.exists()
    assert call(command, model, *options, "--trust").exit_code == 2
    assert mark.exists()
