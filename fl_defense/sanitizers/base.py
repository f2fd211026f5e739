"""The contract of every defense, and the one function that calls it.

A sanitizer gets a suspect model and its structure, and gives back a repaired copy. It is never
given data, a trigger, a target class or an attack success rate: there is no argument for them.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import nn

from fl_defense.facts import Method
from fl_defense.model.deployed import DeployedModel
from fl_defense.model.spec import ModelSpec
from fl_defense.state import State


class ContractError(RuntimeError):
    """A sanitizer broke its promise: the message names the sanitizer and the broken clause.

    Example:
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> from fl_defense import Sanitized, Sanitizer, apply_sanitizer
        >>> class Forgets(Sanitizer):
        ...     def sanitize(self, suspect, spec, state=None, reference=None):
        ...         return Sanitized(model=nn.Identity())
        >>> apply_sanitizer(Forgets(), spec.build(), spec)
        Traceback (most recent call last):
        fl_defense.sanitizers.base.ContractError: Forgets: ...
    """


class NoEffectWarning(UserWarning):
    """A sanitizer returned a model equal to the suspect and no purifier: it did nothing.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", NoEffectWarning)
        ...     NoEffectWarning("CLP left the model unchanged").args
        ('CLP left the model unchanged',)
    """


@dataclass(frozen=True, kw_only=True)
class Sanitized:
    """What a defense returns.

    Example:
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> import torch
        >>> repaired = Sanitized(model=spec.build().eval(), details={"loss": 0.1})
        >>> repaired.deployed(spec)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """

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

    def deployed(self, spec: ModelSpec) -> DeployedModel:
        """Return what is put into service: images in [0, 1] in, logits out."""
        return DeployedModel(self.model, spec.pixels, self.purify)


@runtime_checkable
class Sanitizer(Method, Protocol):
    """A defense: a frozen dataclass whose fields are its hyper-parameters.

    Derive from it and write `sanitize`; all else has a default.

    Example:
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> import copy
        >>> from fl_defense import apply_sanitizer
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Halve(Sanitizer):
        ...     factor: float = 0.5
        ...
        ...     def sanitize(self, suspect, spec, state=None, reference=None):
        ...         model = copy.deepcopy(suspect)
        ...         for weight in model.parameters():
        ...             weight.data *= self.factor
        ...         return Sanitized(model=model)
        >>> suspect = spec.build()
        >>> repaired = apply_sanitizer(Halve(), suspect, spec)
        >>> bool((repaired.model[0].weight == suspect[0].weight / 2).all())
        True
    """

    @property
    def changes_models(self) -> bool:
        """False for a defense that is meant to return the suspect's weights; a class variable."""
        return True

    @property
    def uses_reference(self) -> bool:
        """True for a defense that compares the suspect with a reference; a class variable."""
        return False

    @property
    def purifies(self) -> bool:
        """True for a defense that is meant to return `Sanitized.purify`; a class variable."""
        return False

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse, before anything is trained, models that cannot be repaired; by default none.

        Raises:
            ValueError: if it cannot repair models like this one; the message says why.
        """
        del model, spec

    @abstractmethod
    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: State | None = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        """Return a repaired copy of `suspect`, which stays untouched.

        Args:
            suspect: the model to repair, in eval mode, on the device to compute on.
            spec: its structure and pixels.
            state: `Sanitized.state` of the call before, for a warm start; None for a cold one.
            reference: an earlier model that is trusted, of the same architecture, in eval mode, on
                the same device; stays untouched. A defense that `uses_reference` unlearns only
                what the suspect does more than it; others pay no heed to it.
        """
