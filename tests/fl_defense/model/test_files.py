import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fl_defense.model.deployed import DeployedModel
from fl_defense.model.files import (
    ModelFileError,
    export_deployed,
    load_weights,
    read_weights,
    write_weights,
)
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import DeepCleanse, apply_sanitizer

SUFFIXES = (".safetensors", ".pt", ".pth")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read(suffix: str, tmp_path: Path, tiny_model: nn.Module) -> None:
    path = tmp_path / f"model{suffix}"
    write_weights(path, tiny_model, like=tiny_model.state_dict())
    read = read_weights(path)
    assert read.keys() == tiny_model.state_dict().keys()
    assert all(torch.equal(read[key], value) for key, value in tiny_model.state_dict().items())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_dtypes_of_the_file_are_kept(suffix: str, tmp_path: Path, tiny_model: nn.Module) -> None:
    half = {key: value.half() for key, value in tiny_model.state_dict().items()}
    path = tmp_path / f"model{suffix}"
    write_weights(path, tiny_model, like=half)
    assert {value.dtype for value in read_weights(path).values()} == {torch.float16}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_wrappers_prefix_is_read_past_and_kept_when_written(
    prefix: str, tmp_path: Path, tiny_model: nn.Module
) -> None:
    wrapped = {prefix + name: value + 1 for name, value in tiny_model.state_dict().items()}
    load_weights(tiny_model, wrapped, tmp_path / "x.pt")
    write_weights(tmp_path / "x.pt", tiny_model, like=wrapped)
    again = read_weights(tmp_path / "x.pt")
    assert again.keys() == wrapped.keys()
    assert all(torch.equal(again[name], value) for name, value in wrapped.items())


def test_a_network_may_have_a_part_called_module(tmp_path: Path) -> None:
    inner = nn.Sequential()
    inner.add_module("module", nn.Linear(2, 2))
    load_weights(inner, inner.state_dict(), tmp_path / "x.pt")


def test_tied_weights_can_be_written(tmp_path: Path) -> None:
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    write_weights(tmp_path / "x.safetensors", tied, like=tied.state_dict())
    assert len(read_weights(tmp_path / "x.safetensors")) == 4


def test_a_state_dict_beside_other_things_is_found(tmp_path: Path, tiny_model: nn.Module) -> None:
    path = tmp_path / "checkpoint.pt"
    optimizer = torch.optim.SGD(tiny_model.parameters(), 0.1).state_dict()
    torch.save({"epoch": 3, "model": tiny_model.state_dict(), "optimizer": optimizer}, path)
    assert read_weights(path).keys() == tiny_model.state_dict().keys()


def test_two_state_dicts_are_not_guessed_between(tmp_path: Path, tiny_model: nn.Module) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": tiny_model.state_dict(), "ema": tiny_model.state_dict()}, path)
    with pytest.raises(ModelFileError, match="must hold one state dict, got 'model', 'ema'"):
        read_weights(path)


def test_a_pickled_model_is_refused_and_not_run(tmp_path: Path, tiny_model: nn.Module) -> None:
    path = tmp_path / "model.pt"
    torch.save(tiny_model, path)
    with pytest.raises(ModelFileError, match="holds more than weights, which could run code"):
        read_weights(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_file_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"PK\x03\x04 this is no model")
    with pytest.raises(ModelFileError, match=str(path)):
        read_weights(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.pt", "no such file"),
        ("model.onnx", "must end in one of .safetensors, .pt, .pth, got '.onnx'"),
        ("model", "got 'no suffix'"),
    ],
)
def test_what_is_no_model_file(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_weights(tmp_path / name)


def test_differences_are_named_and_the_rest_counted(tiny_model: nn.Module) -> None:
    weights = copy.deepcopy(tiny_model.state_dict())
    first, second, *rest = weights
    del weights[first]
    weights[second] = torch.zeros(9)
    weights["extra"] = torch.zeros(2)
    for name in rest[:3]:
        weights[name] = torch.full_like(weights[name], float("nan"), dtype=torch.float32)
    with pytest.raises(ModelFileError) as caught:
        load_weights(tiny_model, weights, Path("m.pt"))
    told = str(caught.value)
    assert told.startswith(f"m.pt: '{first}' must be (4, 1, 3, 3), got absent, '{second}' must be")
    assert "must be finite, got NaN or Inf" in told
    assert told.endswith("and 2 more; check the model's name and sizes")


def test_an_unwritable_place_is_named(tmp_path: Path, tiny_model: nn.Module) -> None:
    for suffix in SUFFIXES:
        with pytest.raises(ModelFileError, match="cannot be written"):
            write_weights(tmp_path / "no" / f"x{suffix}", tiny_model, like=tiny_model.state_dict())


def test_an_empty_safetensors_file_fits_no_model(tmp_path: Path, tiny_model: nn.Module) -> None:
    path = tmp_path / "empty.safetensors"
    save_file({}, path)
    with pytest.raises(ModelFileError, match="got absent"):
        load_weights(tiny_model, read_weights(path), path)


def test_an_exported_system_answers_as_the_one_in_memory(
    tmp_path: Path, tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    settings = DeepCleanse(
        num_images=32, num_limit_images=16, completion_width=2, completion_steps=2, batch_size=8,
        hole_limits=(1.0,), min_agreement=0.0,
    )  # fmt: skip
    deployed = apply_sanitizer(settings, tiny_model, tiny_spec).deployed(tiny_spec).eval()
    export_deployed(tmp_path / "x.pt2", deployed, (1, 8, 8))
    program = torch.export.load(tmp_path / "x.pt2").module()
    for num in (1, 2, 5):
        images = torch.rand(num, 1, 8, 8)
        with torch.no_grad():
            expected = deployed(images)
        assert not torch.equal(expected, deployed.model(deployed.pixels.normalize(images)))
        assert torch.allclose(program(images), expected, atol=1e-5)


def test_a_system_that_cannot_be_exported_is_one_line(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    class Undecided(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs.mean((2, 3)) if inputs.sum().item() > 0 else inputs.amax((2, 3))

    with pytest.raises(ModelFileError, match="the model cannot be exported") as caught:
        export_deployed(tmp_path / "x.pt2", DeployedModel(Undecided(), tiny_spec.pixels), (1, 8, 8))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.pt2").exists()
