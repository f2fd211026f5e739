"""The contract of every defense, and the one function that calls it.

A sanitizer gets a suspect model and its structure, and gives back a repaired copy. It is never
given data, a trigger, a target class or an attack success rate: there is no argument for them.
"""

import copy
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fl_defense.metrics import in_eval_mode
from fl_defense.model_spec import ModelSpec, OnImages

State = Mapping[str, Any]
"""What a sanitizer carries from round to round (generators, optimisers); opaque to its caller."""


class ContractError(RuntimeError):
    """A sanitizer broke its promise: the message names the sanitizer and the broken clause."""


class NoEffectWarning(UserWarning):
    """A sanitizer returned a model equal to the suspect and no purifier: it did nothing."""


@dataclass(frozen=True, kw_only=True)
class Sanitized:
    """What a defense returns."""

    model: nn.Module
    """The repaired copy: same names, shapes and dtypes as the suspect, finite, in eval mode."""
    purify: nn.Module | None = None
    """Maps images (B, C, H, W) in [0, 1] to cleaned images, for defenses that act at inference."""
    state: State | None = None
    """What the same sanitizer should be given in the next round, or None."""
    details: Mapping[str, float] = field(default_factory=dict)
    """Numbers worth recording: losses, counts; plain floats."""
    seconds: float = 0.0
    """Wall-clock time of the call; filled in by `apply_sanitizer`."""

    def deployed(self, spec: ModelSpec) -> OnImages:
        """Return what is put into service: images in [0, 1] in, logits out."""
        return OnImages(self.model, spec.pixels, self.purify)


@runtime_checkable
class Sanitizer(Protocol):
    """A defense: a frozen dataclass whose fields are its hyper-parameters.

    One that cannot repair every model may also have a method `check(model, spec)`, which raises a
    ValueError that says why; see `check_sanitizer`.
    """

    @property
    def changes_models(self) -> bool:
        """False for a defense that is meant to return the suspect's weights; a class variable."""

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: State | None = None
    ) -> Sanitized:
        """Return a repaired copy of `suspect`, which stays untouched.

        Args:
            suspect: the model to repair, in eval mode, on the device to compute on.
            spec: its structure and pixels.
            state: `Sanitized.state` of the call before, for a warm start; None for a cold one.
        """


def apply_sanitizer(
    sanitizer: Sanitizer,
    suspect: nn.Module,
    spec: ModelSpec,
    *,
    seed: int = 0,
    state: State | None = None,
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

    Returns:
        The sanitizer's result with `seconds` filled in and `details` as floats.

    Raises:
        ContractError: if the suspect was changed, or the result differs from it in names, shapes,
            dtypes or device, holds a value that is not finite, or is not in eval mode.

    Warns:
        NoEffectWarning: if the result equals the suspect although the sanitizer changes models.
    """
    before = {name: value.detach().clone() for name, value in suspect.state_dict().items()}
    device = next((value.device for value in before.values()), torch.device("cpu"))
    started = time.perf_counter()
    with in_eval_mode(suspect), seeded(seed, device):
        sanitized = sanitizer.sanitize(suspect, spec, state)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started

    name = type(sanitizer).__name__
    _check_untouched(name, suspect, before)
    _check_result(name, sanitized.model, before)
    if sanitizer.changes_models and sanitized.purify is None:
        _warn_if_unchanged(name, sanitized.model, before)
    details = {key: float(value) for key, value in sanitized.details.items()}
    for key, value in details.items():
        if not math.isfinite(value):
            raise ContractError(f"{name}: details must be finite, got {key} = {value}")
    return replace(sanitized, details=details, seconds=seconds)


def check_sanitizer(sanitizer: Sanitizer, model: nn.Module, spec: ModelSpec) -> None:
    """Ask a sanitizer, before anything is trained, whether it can repair models like this one.

    A sanitizer without a method `check` takes every model. The global random state stays as it is.

    Args:
        sanitizer: the defense to ask.
        model: a network of the architecture, trained or not, on the CPU and in eval mode.
        spec: its structure.

    Raises:
        ValueError: if it cannot; the message says why.
    """
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


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a seed on the CPU and on `device`; the global random state stays as it is."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        # Not torch.manual_seed: it would seed every GPU, also those that nobody restores.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode whose parameters take no gradient: a teacher."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that clients train; a frozen one is no defense's to change.

    Raises:
        ValueError: if there is none.
    """
    found = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not found:
        raise ValueError(
            "the model has no parameter that requires a gradient where the defense would change "
            "it; let `build` leave some unfrozen"
        )
    return found


def require_image_gradient(model: nn.Module, shape: tuple[int, int, int]) -> None:
    """Refuse a network that passes no gradient back to its images: triggers are searched by it.

    Args:
        model: in eval mode.
        shape: (C, H, W) of an image.

    Raises:
        ValueError: if it does not.
    """
    device = next(model.parameters()).device
    with torch.enable_grad():
        image = torch.zeros(1, *shape, device=device, requires_grad=True)
        answer = model(image).sum()
        # Nothing at all, or weights alone, may be what the answer has a gradient of.
        passes = answer.requires_grad
        passes = passes and torch.autograd.grad(answer, image, allow_unused=True)[0] is not None
    if not passes:
        raise ValueError(
            "the model passes no gradient back to its images (torch.no_grad() or detach() in its "
            "forward?), along which triggers are searched; freeze layers by requires_grad_(False)"
        )


def require_gradients(parameters: list[nn.Parameter], required: bool) -> None:
    """Have gradients computed for these parameters, or not."""
    for parameter in parameters:
        parameter.requires_grad_(required)


def _check_untouched(name: str, suspect: nn.Module, before: Mapping[str, Tensor]) -> None:
    after = suspect.state_dict()
    changed = [key for key, value in before.items() if not _same(value, after[key])]
    if changed:
        raise ContractError(
            f"{name}: the suspect must stay untouched, got a changed {changed[0]!r}"
        )


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


def _warn_if_unchanged(name: str, model: nn.Module, before: Mapping[str, Tensor]) -> None:
    after = model.state_dict()
    if all(_same(value, after[key]) for key, value in before.items()):
        warnings.warn(f"{name} left the model unchanged", NoEffectWarning, stacklevel=3)


def _same(old: Tensor, new: Tensor) -> bool:
    """Equal bit for bit; NaN equals NaN, so that a suspect full of NaN counts as untouched."""
    if old.is_floating_point():
        return torch.allclose(old, new, rtol=0, atol=0, equal_nan=True)
    return torch.equal(old, new)
