"""What speaks against a node over the rounds: it adds up, and it is forgiven."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

NEGLIGIBLE = 0.05
"""Suspicion below this is dropped, so that the list stays short."""


@dataclass(frozen=True, kw_only=True)
class History:
    """Suspicion by node and class.

    A false alarm hits another node, or the same for another class, from round to round; an attacker
    is suspected again and again, for the same class.
    """

    suspicion: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    """By node and class, positive."""

    def after(
        self,
        present: Iterable[int],
        suspected: Iterable[tuple[int, int]],
        forgetting: float,
    ) -> "History":
        """Return the history after a round.

        Args:
            present: nodes that replied; what is known of others stays as it is.
            suspected: nodes and the classes that they are suspected for, each once.
            forgetting: factor on what was known before, in [0, 1].
        """
        present = set(present)
        after = {
            node: {
                label: value * (forgetting if node in present else 1.0)
                for label, value in classes.items()
            }
            for node, classes in self.suspicion.items()
        }
        for node, label in set(suspected):
            classes = after.setdefault(node, {})
            classes[label] = classes.get(label, 0.0) + 1.0
        kept = {
            node: {label: value for label, value in classes.items() if value >= NEGLIGIBLE}
            for node, classes in after.items()
        }
        return History(suspicion={node: classes for node, classes in kept.items() if classes})

    def of(self, node: int, label: int) -> float:
        """Return how much speaks against a node for a class."""
        return self.suspicion.get(node, {}).get(label, 0.0)

    def to_json(self) -> dict[str, dict[str, float]]:
        """Return suspicion by node and class, for a person."""
        return {
            str(node): {str(label): round(value, 2) for label, value in classes.items()}
            for node, classes in self.suspicion.items()
        }

    def to_state(self) -> list[list[float]]:
        """Return rows of node, class and suspicion."""
        return [
            [node, label, value]
            for node, classes in sorted(self.suspicion.items())
            for label, value in sorted(classes.items())
        ]

    @classmethod
    def from_state(cls, rows: Any, num_classes: int) -> "History":
        """Return the history that `to_state` has written.

        Raises:
            ValueError: if it is damaged.
        """
        if not isinstance(rows, list):
            raise ValueError(f"history: must be a list, got {type(rows).__name__}")
        suspicion: dict[int, dict[int, float]] = {}
        for row in rows:
            if not isinstance(row, list) or len(row) != 3:
                raise ValueError(f"history: must hold rows of 3 numbers, got {row!r}")
            node, label, value = row
            if not isinstance(node, int) or not isinstance(label, int):
                raise ValueError(f"history: node and class must be whole numbers, got {row!r}")
            is_number = isinstance(value, float) and math.isfinite(value) and value > 0
            if not 0 <= label < num_classes or not is_number:
                raise ValueError(f"history: class or suspicion is out of range in {row!r}")
            suspicion.setdefault(node, {})[label] = value
        return cls(suspicion=suspicion)
