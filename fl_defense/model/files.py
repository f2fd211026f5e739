"""Weights in files: read without running any code, checked name by name, written.

Two formats: `.safetensors`, and PyTorch's `.pt` or `.pth` read with `weights_only=True`. A file
holds a state dict, or a mapping with exactly one state dict in it (as training scripts save it
beside an optimizer's state).
"""

import copy
import io
import pickle
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from fl_defense.atomic_write import replace_file
from fl_defense.model.archives import ArchiveError, check_torch_file
from fl_defense.model.batchnorm import non_negative_buffers
from fl_defense.model.deployed import DeployedModel
from fl_defense.model.wrappers import wrapper_prefix

PROGRAM_SUFFIX = ".pt2"
TORCH_SUFFIXES = (".pt", ".pth")
SAFETENSORS_SUFFIX = ".safetensors"
SUFFIXES = (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES)
"""Of files of weights."""
DTYPES = frozenset(
    {
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    }
)
"""In which weights and counters are stored."""
MOST_MISFITS_TOLD = 4
"""Differences between a file and a model that are told one by one."""


class ModelFileError(ValueError):
    """A model file cannot be used; the message is one line: where: what, got ...; what to do."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read names and values from a model file, onto the CPU.

    Raises:
        ModelFileError: if the file is missing, of an unknown kind, not what its name says, or holds
            anything but weights.
    """
    check_suffix(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; name a model file")
    try:
        if path.suffix == SAFETENSORS_SUFFIX:
            return load_file(path)
        check_torch_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except ArchiveError as error:
        raise ModelFileError(f"{path}: {error}") from error
    except pickle.UnpicklingError as error:
        raise ModelFileError(f"{path}: holds more than weights, or is damaged") from error
    except Exception as error:  # a damaged file may raise anything
        raise ModelFileError(f"{path}: cannot be read ({_one_line(error)})") from error
    return _state_dict_in(content, path)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put weights into a model; their names may have the prefix of a wrapper (`WRAPPERS`).

    Raises:
        ModelFileError: if a name or shape differs, a value is not finite or a variance is negative;
            the first few are named after `path`.
    """
    expected, non_negative = model.state_dict(), non_negative_buffers(model)
    prefix = wrapper_prefix(weights, expected)
    weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    misfits = []
    for name in [*expected, *(name for name in weights if name not in expected)]:
        wanted, got = expected.get(name), weights.get(name)
        if got is None or wanted is None or got.shape != wanted.shape:
            misfits.append(f"{name!r} must be {_form(wanted)}, got {_form(got)}")
        elif got.dtype not in DTYPES or got.layout != torch.strided or got.is_meta:
            misfits.append(f"{name!r} must hold plain real numbers, got {_kind(got)}")
        elif not torch.isfinite(got).all():
            misfits.append(f"{name!r} must be finite, got NaN or Inf")
        elif name in non_negative and (got < 0).any():
            misfits.append(f"{name!r} must not be negative, got {got.min().item():g}")
    if misfits:
        named = ", ".join(islice(misfits, MOST_MISFITS_TOLD))
        rest = len(misfits) - MOST_MISFITS_TOLD
        more = f", and {rest} more" if rest > 0 else ""
        raise ModelFileError(f"{path}: {named}{more}; check the model's name and sizes")
    model.load_state_dict(weights)


def write_weights(path: Path, model: nn.Module, *, like: Mapping[str, Tensor]) -> None:
    """Write a model's weights, each by the name and in the dtype that it has in `like`.

    Raises:
        ModelFileError: if the file cannot be written, or is of an unknown kind.
    """
    check_suffix(path)
    state = model.state_dict()
    prefix = wrapper_prefix(like, state)
    weights = {
        prefix + name: value.detach()
        .cpu()
        .to(like[prefix + name].dtype)
        .clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    is_safetensors = path.suffix == SAFETENSORS_SUFFIX
    _write(path, save(weights) if is_safetensors else _as_bytes(torch.save, weights))


def export_deployed(path: Path, deployed: DeployedModel, input_shape: tuple[int, int, int]) -> None:
    """Write a deployed model, its purifier included, as one program: `torch.export.load` reads it.

    The program maps images in [0, 1] of any batch size to logits. It needs this library no more.

    Args:
        path: file ending in .pt2.
        deployed: model and purifier, on any device; it stays as it is.
        input_shape: channels, height, width.

    Raises:
        ModelFileError: if the model cannot be exported, or the file not written.

    Example:
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> from fl_defense.model.spec import Pixels
        >>> deployed = DeployedModel(spec.build(), Pixels())
        >>> export_deployed(Path("model.pt2"), deployed, (1, 8, 8))
        >>> torch.export.load("model.pt2").module()(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5, 3])
    """
    deployed = copy.deepcopy(deployed).cpu().eval()
    images = torch.rand(2, *input_shape)
    batch = torch.export.Dim("batch", min=1)
    try:
        # Traced down to tensor operations first: torch.export does not look into a gradient.
        with torch.no_grad():
            traced = make_fx(deployed, tracing_mode="symbolic", _allow_non_fake_inputs=True)(images)
        program = torch.export.export(traced, (images,), dynamic_shapes=({0: batch},))
    except Exception as error:  # anybody's network may fail in any way
        raise ModelFileError(
            f"{path}: the model cannot be exported ({_one_line(error)}); keep decisions that "
            "depend on tensors out of its forward"
        ) from error
    _write(path, _as_bytes(torch.export.save, program))


def check_suffix(path: Path) -> None:
    """Refuse names that no format goes with.

    Raises:
        ModelFileError: if the suffix is none of those known.
    """
    if path.suffix not in SUFFIXES:
        raise ModelFileError(
            f"{path}: must end in one of {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'!r}"
        )


def _state_dict_in(content: object, path: Path) -> dict[str, Tensor]:
    if _is_state_dict(content):
        return dict(content)  # type: ignore[call-overload,no-any-return]
    inner = {}
    if isinstance(content, Mapping):
        inner = {key: value for key, value in content.items() if _is_state_dict(value)}
    if len(inner) != 1:
        found = ", ".join(map(repr, inner)) or type(content).__name__
        raise ModelFileError(
            f"{path}: must hold one state dict, got {found}; save model.state_dict() alone"
        )
    return dict(next(iter(inner.values())))


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) for name in content)
        and all(isinstance(value, Tensor) for value in content.values())
    )


def _as_bytes(save_into: Callable[[Any, io.BytesIO], None], value: object) -> bytes:
    buffer = io.BytesIO()
    save_into(value, buffer)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    try:
        replace_file(path, content)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written ({error.strerror})") from error


def _kind(value: Tensor) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    return dtype if value.layout == torch.strided else f"{value.layout} {dtype}"


def _form(value: Tensor | None) -> str:
    return "absent" if value is None else str(tuple(value.shape))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
