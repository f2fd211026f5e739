"""What can be wrong with what a user wrote: a fault has a place and a message."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError

from simulations.scenario.fields import kebab

MISSING = "is missing; add it"
"""What is said of a key that must be given."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong."""

    place: str
    """Where it stands, dotted as YAML spells it: "defense.0.iterations"; "" for the whole."""
    message: str
    """What it is, what was given, and what to do; one line."""

    def under(self, place: str) -> "Fault":
        """Return the fault as seen from one level up."""
        return Fault(".".join(step for step in (place, self.place) if step), self.message)

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class FaultsError(ValueError):
    """All that is wrong with one part; raised while it is read."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


class ConfigError(ValueError):
    """A scenario is wrong; `faults` holds one line each: where: what, got; what to do.

    Example:
        >>> ConfigError(["rounds: must be at least 1", "seed: must be a number"]).faults
        ['rounds: must be at least 1', 'seed: must be a number']
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def unknown_key(key: str, known: list[str]) -> Fault:
    """Return the fault of a key that is not one of those known."""
    return Fault(key, f"unknown key{nearest(key, known)}; known: {', '.join(known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the known name nearest to a misspelt one, or nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def faults_of(error: ValidationError, model: type[BaseModel] | None = None) -> Iterator[Fault]:
    """Write each of pydantic's errors as a fault.

    Args:
        error: what pydantic raised.
        model: what was to be read, if that is a model: its keys are named where one is misspelt.
    """
    for found in error.errors():
        cause = found.get("ctx", {}).get("error")
        place = ".".join(kebab(str(step)) for step in found["loc"])
        if isinstance(cause, FaultsError):
            yield from (fault.under(place) for fault in cause.faults)
        elif found["type"] == "extra_forbidden" and model is not None:
            *outer, key = (kebab(str(step)) for step in found["loc"])
            yield unknown_key(key, _keys_at(outer, model)).under(".".join(outer))
        elif found["type"] == "missing":
            yield Fault(place, MISSING)
        elif found["type"] == "value_error":
            yield Fault(place, str(cause))
        else:
            message = found["msg"][:1].lower() + found["msg"][1:]
            yield Fault(place, f"{message}, got {found['input']!r}")


def _keys_at(place: Iterable[str], model: type[BaseModel]) -> list[str]:
    """Return the keys of the model that lies at a place inside another."""
    for step in place:
        fields = {kebab(field.alias or name): field for name, field in model.model_fields.items()}
        inner = fields[step].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        model = inner
    return [kebab(field.alias or name) for name, field in model.model_fields.items()]
