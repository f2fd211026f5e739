"""What a server carries, made of tensors, numbers, text and containers: it loads without code."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint cannot be written or must not be used; the message says where and why."""


def pack(value: Any, where: str) -> Any:
    """Return `value` made of tensors, numbers, strings and containers, which load without code.

    Raises:
        CheckpointError: if it holds anything else; the message names it after `where`.
    """
    if isinstance(value, np.ndarray | np.generic):
        return _pack_numpy(value, where)
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    if isinstance(value, ArrayRecord):
        return (
            "arrays",
            {name: _pack_numpy(array.numpy(), where) for name, array in value.items()},
        )
    if isinstance(value, Mapping):
        return ("dict", {key: pack(item, f"{where}.{key}") for key, item in value.items()})
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return (kind, [pack(item, f"{where}[{index}]") for index, item in enumerate(value)])
    raise CheckpointError(
        f"{where}: cannot be kept in a checkpoint, got {type(value).__name__}; "
        "carry tensors, arrays, numbers, strings, and lists or dicts of them"
    )


def unpack(value: Any) -> Any:
    """Undo `pack`."""
    if not isinstance(value, tuple):
        return value
    kind, content = value
    match kind:
        case "arrays":
            return ArrayRecord({name: Array(unpack(array)) for name, array in content.items()})
        case "dict":
            return {key: unpack(item) for key, item in content.items()}
        case "list":
            return [unpack(item) for item in content]
        case "tuple":
            return tuple(unpack(item) for item in content)
        case "array":
            return content.numpy()
        case _:
            return content.numpy()[()]


def _pack_numpy(value: Any, where: str) -> tuple[str, Tensor]:
    kind = "array" if isinstance(value, np.ndarray) else "number"
    try:
        return kind, torch.from_numpy(np.array(value))
    except TypeError as error:
        raise CheckpointError(f"{where}: cannot be kept in a checkpoint ({error})") from error
