"""Several defenses, one after the other: each repairs what the one before has left."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers.apply import apply_sanitizer, check_sanitizer
from fl_defense.sanitizers.base import Sanitized, Sanitizer
from fl_defense.state import State

MAX_SEED = 2**31


@dataclass(frozen=True, kw_only=True)
class Pipeline(Sanitizer):
    """Sanitizers in order; in a scenario, a list of them.

    Each is held to the contract by itself. Purifiers are put in a row, too.

    Raises:
        ValueError: if there is no step, or one that changes the model stands behind one that does
            not: a purifier is made for the model that is deployed.

    Example:
        >>> from fl_defense import apply_sanitizer
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> from fl_defense import CLP, DHBE
        >>> both = Pipeline(steps=(CLP(threshold=1.0), DHBE(patch_size=3)))
        >>> both.changes_models, both.uses_reference
        (True, True)
    """

    steps: tuple[Sanitizer, ...]
    """The sanitizers, first to run first."""

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("steps must hold at least one sanitizer, got none")
        for before, after in pairwise(self.steps):
            if after.changes_models and not before.changes_models:
                raise ValueError(
                    "steps that change the model must come before those that do not, got "
                    f"{type(before).__name__} before {type(after).__name__}; swap them"
                )

    @property
    def changes_models(self) -> bool:
        """Whether any step does."""
        return any(step.changes_models for step in self.steps)

    @property
    def purifies(self) -> bool:
        """Whether any step does."""
        return any(step.purifies for step in self.steps)

    @property
    def uses_reference(self) -> bool:
        """Whether any step does."""
        return any(step.uses_reference for step in self.steps)

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse a model that one of the steps refuses.

        Raises:
            ValueError: what that step says.
        """
        for step in self.steps:
            check_sanitizer(step, model, spec)

    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: State | None = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        """Apply the steps in order; states and details are kept apart by the step's position."""
        model = suspect
        states: dict[str, State] = {}
        details: dict[str, float] = {}
        purifiers: list[nn.Module] = []
        for position, step in enumerate(self.steps, start=1):
            key = f"{position}.{type(step).__name__}"
            # Drawn from the pipeline's own seed: two equal steps must not repeat each other.
            seed = int(torch.randint(MAX_SEED, ()))
            done = apply_sanitizer(
                step, model, spec, seed=seed, state=(state or {}).get(key), reference=reference
            )
            model = done.model
            details |= {f"{key}.{name}": value for name, value in done.details.items()}
            if done.state is not None:
                states[key] = done.state
            if done.purify is not None:
                purifiers.append(done.purify)
        return Sanitized(
            model=model,
            purify=nn.Sequential(*purifiers) if purifiers else None,
            state=states or None,
            details=details,
        )
