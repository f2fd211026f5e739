"""A round of a simulation: the server's record beside what it cannot know."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from fl_defense.rounds.records import RoundRecord

STAGES = {
    "aggregate": "before repair",
    "released": "after repair",
    "unpurified": "without purifier",
    "sent": "sent to clients",
}
"""The models of a round that are measured, with their words in a legend."""

Rates = Mapping[str, Mapping[str, float]]
"""Stage -> metric -> fraction in [0, 1]; what was not measured is not there."""


@dataclass(frozen=True, kw_only=True)
class MeasuredRound:
    """One round of a simulation; docs/reference/records.md explains every key of its line."""

    record: RoundRecord
    """What the server knows; its keys come first in the line."""
    asked: list[int] = field(default_factory=list)
    """Partitions that were asked to train."""
    malicious: list[int] = field(default_factory=list)
    """Partitions that attacked in this round."""
    rates: Rates = field(default_factory=dict)
    """By stage and metric, as in `STAGES` and `METRICS`."""
    backdoors: list[Rates] = field(default_factory=list)
    """The metrics with a trigger for each backdoor by itself."""
    evaluate_seconds: float = 0.0
    """Of measuring."""

    @property
    def round(self) -> int:
        """Number of the round; 0 is the initial model."""
        return self.record.round

    def rate(self, stage: str, metric: str) -> float | None:
        """Return a rate, or None if it was not measured."""
        return rate_of(self.rates, stage, metric)

    def to_json(self) -> str:
        """Return one line of JSON: the keys of the record, then those of the simulation."""
        own = asdict(self)
        record = own.pop("record")
        return json.dumps(record | own, allow_nan=False)

    @classmethod
    def from_keys(cls, keys: Mapping[str, Any]) -> Self:
        """Return the round that a line holds.

        Raises:
            TypeError: if a key is not known, or the number of the round is none.
        """
        if type(keys.get("round")) is not int:
            raise TypeError(f"round must be a whole number, got {keys.get('round')!r}")
        names = {each.name for each in fields(cls)} - {"record"}
        own = {name: value for name, value in keys.items() if name in names}
        return cls(
            record=RoundRecord(**{name: keys[name] for name in keys if name not in names}), **own
        )


def rate_of(rates: Rates, stage: str, metric: str) -> float | None:
    """Return a rate, or None if it was not measured."""
    return rates.get(stage, {}).get(metric)
