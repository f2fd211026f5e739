"""Between the arrays that Flower carries and the models that a defense repairs."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from torch import nn

from fl_defense.model.spec import ModelSpec
from fl_defense.model.wrappers import unwrapping


def load_model(arrays: ArrayRecord, template: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of `template` with these arrays, on `device`, in eval mode.

    A copy, not a fresh network: drawing fifty million weights takes longer than copying them. What
    is not among the arrays is as in the template.
    """
    model = copy.deepcopy(template)
    model.load_state_dict(arrays.to_torch_state_dict(), strict=False)
    return model.to(device).eval()


def model_arrays(model: nn.Module, reference: ArrayRecord) -> ArrayRecord:
    """Return the model's arrays in the order and dtypes of `reference`."""
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    return restore_arrays(ArrayRecord(state), reference, {})


def restore_arrays(
    arrays: ArrayRecord, reference: ArrayRecord, buffers: Mapping[str, NDArray[np.float64]]
) -> ArrayRecord:
    """Return `arrays` in the order and dtypes of `reference`, with `buffers` put in.

    Flower's averages turn counters into float64 and FedAdam turns all weights into float64.
    """
    restored = ArrayRecord()
    for name, like in reference.items():
        values = buffers[name] if name in buffers else arrays[name].numpy()
        dtype = np.dtype(like.dtype)
        if values.dtype != dtype:
            values = (np.rint(values) if dtype.kind in "iu" else values).astype(dtype)
        restored[name] = Array(np.asarray(values))
    return restored


def check_arrays(arrays: ArrayRecord, spec: ModelSpec, what: str) -> None:
    """Raise ValueError, naming `what`, if the arrays are no part of a model of `spec`."""
    if not arrays:
        raise ValueError(f"{what}: must hold arrays of the model, got none; give its state dict")
    expected = {name: tuple(value.shape) for name, value in spec.build().state_dict().items()}
    got = {name: tuple(array.shape) for name, array in arrays.items()}
    for name in sorted(got, key=lambda name: (name in expected, name)):
        if expected.get(name) != got[name]:
            raise ValueError(
                f"{what}: {name!r} must be {expected.get(name, 'absent')} as in the "
                f"model that spec.build() makes, got {got[name]}; "
                f"make both from the same architecture{unwrapping(name)}"
            )
