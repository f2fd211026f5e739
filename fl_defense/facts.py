"""What a method says of itself: the facts that tables show, and its named settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What tables say of a method, beside the first sentence of its docstring.

    Example:
        >>> Facts(needs="BatchNorm", changes="some channels").limits
        'not stated'
    """

    needs: str = "nothing"
    """What it needs beside the model and the shape of its images."""
    changes: str = "nothing"
    """What of the model, of its inputs or of a round is changed."""
    cost: str = "not stated"
    """What it takes, in forward passes or seconds."""
    paper: str = "not stated"
    """Where it was published, or "ours"."""
    limits: str = "not stated"
    """What it does not do."""


class Method(Protocol):
    """The base of all methods: a frozen dataclass whose fields are its settings.

    Example:
        >>> from fl_defense import DHBE
        >>> sorted(DHBE.presets())
        ['faithful', 'per-round']
    """

    facts: ClassVar[Facts] = Facts()
    """What tables show."""

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """Return named settings, by the name that a scenario gives; by default there are none."""
        return {}
