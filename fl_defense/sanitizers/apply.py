"""The one function that calls a sanitizer, and holds it to its contract."""

import math
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from fl_defense.model.deployed import in_eval_mode
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import seeded
from fl_defense.sanitizers.base import ContractError, NoEffectWarning, Sanitized, Sanitizer
from fl_defense.state import State


def apply_sanitizer(
    sanitizer: Sanitizer,
    suspect: nn.Module,
    spec: ModelSpec,
    *,
    seed: int = 0,
    state: State | None = None,
    reference: nn.Module | None = None,
    federated: Collection[str] | None = None,
) -> Sanitized:
    """Run a sanitizer and hold it to its contract.

    The call is reproducible: it draws from `seed` alone and leaves the global random state as it
    found it (on one device and thread count; GPU kernels may differ in the last bits).

    Args:
        sanitizer: the defense to run.
        suspect: the model to repair; its mode and weights are as before when this returns.
        spec: structure of the model.
        seed: seeds torch's generators for the length of the call.
        state: what the sanitizer returned last time, or None.
        reference: an earlier model that is trusted, such as the one that the round before has sent
            out, on the suspect's device; its mode and weights are as before, too. Only what the
            suspect does more than it is unlearned, by defenses that `uses_reference`.
        federated: names of the arrays that are sent to clients, and alone may change; what the
            sanitizer does to others is undone. None: all are sent.

    Returns:
        The sanitizer's result with `seconds` filled in and `details` as floats.

    Raises:
        ContractError: if the suspect or the reference was changed, or the result differs from the
            suspect in names, shapes, dtypes or device, holds a value that is not finite, or is not
            in eval mode.

    Warns:
        NoEffectWarning: if the result equals the suspect although the sanitizer changes models.

    Example:
        >>> from fl_defense import apply_sanitizer
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> from fl_defense import DHBE
        >>> quick = DHBE(iterations=2, num_scenes=32, patch_size=3, consistency="squared")
        >>> repaired = apply_sanitizer(quick, spec.build(), spec, seed=0)
        >>> repaired.model.training, repaired.details["forward_images"] > 0
        (False, True)
    """
    before = _weights(suspect)
    reference_before = {} if reference is None else _weights(reference)
    device = next((value.device for value in before.values()), torch.device("cpu"))
    started = time.perf_counter()
    given = [suspect] if reference is None else [suspect, reference]
    with in_eval_mode(nn.ModuleList(given)), seeded(seed, device):
        if reference is not None and getattr(sanitizer, "uses_reference", False):
            sanitized = sanitizer.sanitize(suspect, spec, state, reference)
        else:
            sanitized = sanitizer.sanitize(suspect, spec, state)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started

    name = type(sanitizer).__name__
    _check_untouched(name, "suspect", suspect, before)
    if reference is not None:
        _check_untouched(name, "reference", reference, reference_before)
    _check_result(name, sanitized.model, before)
    if federated is not None:
        _restore(sanitized.model, before, federated)
    if getattr(sanitizer, "changes_models", True) and sanitized.purify is None:
        _warn_if_unchanged(name, sanitized.model, before)
    details = {key: float(value) for key, value in sanitized.details.items()}
    for key, value in details.items():
        if not math.isfinite(value):
            raise ContractError(f"{name}: details must be finite, got {key} = {value}")
    return replace(sanitized, details=details, seconds=seconds)


def check_sanitizer(sanitizer: Sanitizer, model: nn.Module, spec: ModelSpec) -> None:
    """Ask a sanitizer, before anything is trained, whether it can repair models like this one.

    The global random state stays as it is.

    Args:
        sanitizer: the defense to ask.
        model: a network of the architecture, trained or not, on the CPU and in eval mode.
        spec: its structure.

    Raises:
        ValueError: if it cannot; the message says why.

    Example:
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> from fl_defense import DHBE
        >>> check_sanitizer(DHBE(patch_size=9), spec.build(), spec)
        Traceback (most recent call last):
        ValueError: patch_size must be at most the image's 8, got 9
    """
    # A class of one's own that does not derive from `Sanitizer` may be without it.
    check = getattr(sanitizer, "check", None)
    if check is not None:
        with torch.random.fork_rng(devices=[]):
            check(model, spec)


@contextmanager
def idle_defenses() -> Iterator[list[str]]:
    """Collect what `NoEffectWarning`s say; other warnings are given as usual, when this ends."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NoEffectWarning)
        yield said
    for each in caught:
        if issubclass(each.category, NoEffectWarning):
            said.append(str(each.message))
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _check_untouched(name: str, role: str, model: nn.Module, before: Mapping[str, Tensor]) -> None:
    after = model.state_dict()
    changed = [key for key, value in before.items() if not _same(value, after[key])]
    if changed:
        raise ContractError(f"{name}: the {role} must stay untouched, got a changed {changed[0]!r}")


def _check_result(name: str, model: nn.Module, before: Mapping[str, Tensor]) -> None:
    after = model.state_dict()
    if after.keys() != before.keys():
        differing = sorted(after.keys() ^ before.keys())
        raise ContractError(
            f"{name}: the result must have the suspect's arrays, got {differing[0]!r}"
        )
    for key, old in before.items():
        new = after[key]
        if (new.shape, new.dtype, new.device) != (old.shape, old.dtype, old.device):
            raise ContractError(
                f"{name}: {key!r} must stay {tuple(old.shape)} {old.dtype} on {old.device}, "
                f"got {tuple(new.shape)} {new.dtype} on {new.device}"
            )
        if not torch.isfinite(new).all():
            raise ContractError(f"{name}: the result must be finite, got NaN or Inf in {key!r}")
    if any(module.training for module in model.modules()):
        raise ContractError(f"{name}: the result must be in eval mode, got train mode")


@torch.no_grad()
def _restore(model: nn.Module, before: Mapping[str, Tensor], federated: Collection[str]) -> None:
    """Undo what was changed outside of what is federated: it would be lost when that is sent."""
    for key, value in model.state_dict().items():
        if key not in federated:
            value.copy_(before[key])


def _warn_if_unchanged(name: str, model: nn.Module, before: Mapping[str, Tensor]) -> None:
    after = model.state_dict()
    if all(_same(value, after[key]) for key, value in before.items()):
        warnings.warn(f"{name} left the model unchanged", NoEffectWarning, stacklevel=3)


def _same(old: Tensor, new: Tensor) -> bool:
    """Equal bit for bit; NaN equals NaN, so that a suspect full of NaN counts as untouched."""
    if old.is_floating_point():
        return torch.allclose(old, new, rtol=0, atol=0, equal_nan=True)
    return torch.equal(old, new)
