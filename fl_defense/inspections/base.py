"""The contract of an inspection: asked without data how suspicious a model is."""

from abc import abstractmethod
from typing import Protocol

from torch import nn

from fl_defense.facts import Method
from fl_defense.model.spec import ModelSpec
from fl_defense.state import State


class Finding(Protocol):
    """What every inspection says of a model.

    Example:
        >>> from fl_defense.inspections.freeeagle import FreeEagleFinding
        >>> all(hasattr(FreeEagleFinding, name) for name in ("kind", "is_certain", "state"))
        True
    """

    @property
    def anomaly(self) -> float:
        """The larger, the more does the model look backdoored; in the inspection's own unit."""

    @property
    def kind(self) -> str:
        """What lifts the suspected class: the family of the trigger found."""

    @property
    def suspected_class(self) -> int:
        """The target, if there is a backdoor."""

    @property
    def is_certain(self) -> bool:
        """Whether it is an alarm whatever the task's bound: no clean model is known to do so."""

    @property
    def state(self) -> State:
        """What the next round's inspection may start from."""


class Inspection(Method, Protocol):
    """Inspects a model of any origin; its settings are the dataclass's fields.

    Example:
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> from fl_defense import FreeEagle
        >>> inspection = FreeEagle(dummies_per_class=2, steps=2)
        >>> found = inspection.inspect(spec.build().eval(), spec, seed=0)
        >>> found.suspected_class in range(3)
        True
    """

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse what cannot be inspected; by default nothing.

        Raises:
            ValueError: if the model or its images do not fit.
        """
        del model, spec

    def bar_for(self, model: nn.Module, spec: ModelSpec) -> float | None:
        """Return the anomaly above which a model of this kind is taken for backdoored.

        Calibrated with clean models; None, the default: it is not, and `calibrated_bound` takes it
        from models of the same task.
        """
        del model, spec
        return None

    def clear_for(self, model: nn.Module, spec: ModelSpec) -> float | None:
        """Return the anomaly up to which a model of this kind counts as clean.

        What lies between it and the bar is neither. None, the default: the bar itself.
        """
        del model, spec
        return None

    def blind_to(self, model: nn.Module, spec: ModelSpec) -> str | None:
        """Return why a model of this kind is never told to be clean or repaired, or None.

        Its bars are of other kinds of models; what exceeds `bar_for` is told all the same.
        """
        del model, spec
        return None

    @abstractmethod
    def inspect(
        self, model: nn.Module, spec: ModelSpec, *, seed: int = 0, state: State | None = None
    ) -> Finding:
        """Inspect a model, which stays untouched, on its own device.

        Args:
            model: the suspect.
            spec: its structure.
            seed: of all that is drawn; the global random state stays as it is.
            state: of an earlier round's inspection, to start from.

        Raises:
            ValueError: if the model or its images do not fit.
        """
