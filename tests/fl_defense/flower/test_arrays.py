from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from torch import nn

from fl_defense.flower.arrays import check_arrays, load_model, model_arrays, restore_arrays
from fl_defense.model.spec import ModelSpec

REFERENCE = ArrayRecord({"w": torch.zeros(2, 3), "n": torch.tensor(5)})


def test_restore_brings_back_order_dtypes_and_buffers() -> None:
    aggregated = ArrayRecord({"n": Array(np.array(6.6)), "w": Array(np.ones((2, 3)))})
    restored = restore_arrays(aggregated, REFERENCE, {})
    assert list(restored) == ["w", "n"]
    assert restored["w"].numpy().dtype == np.float32
    assert restored["n"].numpy().dtype == np.int64
    assert restored["n"].numpy() == 7
    assert restore_arrays(aggregated, REFERENCE, {"n": np.array(2.4)})["n"].numpy() == 2


def test_a_model_survives_the_way_there_and_back(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    arrays = ArrayRecord(tiny_model.state_dict())
    back = model_arrays(load_model(arrays, tiny_spec.build(), torch.device("cpu")), arrays)
    assert list(back) == list(arrays)
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(back.to_torch_state_dict()[name], value)


def test_foreign_initial_arrays_are_named(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    state = dict(tiny_model.state_dict())
    state["14.weight"] = state.pop("0.weight")
    with pytest.raises(ValueError, match=r"'14.weight' must be absent .* got \(4, 1, 3, 3\)"):
        check_arrays(ArrayRecord(state), tiny_spec, "initial_arrays")
    with pytest.raises(ValueError, match=r"'13.bias' must be \(3,\) .* got \(2,\)"):
        check_arrays(ArrayRecord({"13.bias": torch.zeros(2)}), tiny_spec, "initial_arrays")
    with pytest.raises(ValueError, match="must hold arrays of the model, got none"):
        check_arrays(ArrayRecord(), tiny_spec, "initial_arrays")


def test_initial_arrays_of_a_compiled_model_are_refused_with_the_cure(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    state = {f"_orig_mod.{name}": value for name, value in tiny_model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"torch\.compile's prefix: send the state dict of what it"
    ):
        check_arrays(ArrayRecord(state), tiny_spec, "initial_arrays")
