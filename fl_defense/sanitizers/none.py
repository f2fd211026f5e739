"""No defense: the control that every comparison needs."""

import copy
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fl_defense.facts import Facts
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers.base import Sanitized, Sanitizer
from fl_defense.state import State


@dataclass(frozen=True, kw_only=True)
class NoDefense(Sanitizer):
    """Returns the suspect as it is.

    Example:
        >>> NoDefense().changes_models
        False
    """

    changes_models: ClassVar[bool] = False
    facts: ClassVar[Facts] = Facts(cost="none", paper="the control", limits="repairs nothing")

    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: State | None = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        """Return a plain copy of `suspect`."""
        del spec, state, reference
        return Sanitized(model=copy.deepcopy(suspect))
