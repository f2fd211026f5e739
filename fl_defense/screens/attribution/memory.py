"""The patterns of earlier rounds, by which replies are judged before anything is searched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fl_defense.search.patterns import Pattern, PatternFamily


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """A pattern that somebody was left out or suspected for."""

    pattern: Pattern
    round: int
    """When it was found, or last named a node."""
    is_proven: bool
    """Whether a reply was left out for it; otherwise nodes were suspected."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """At most a few patterns, at most one of each family and class."""

    entries: tuple[Remembered, ...] = ()
    """Proven ones first, among them the latest first."""

    @property
    def patterns(self) -> list[Pattern]:
        """The patterns, in the same order."""
        return [entry.pattern for entry in self.entries]

    def with_patterns(self, new: Sequence[Remembered], most: int) -> "Memory":
        """Return the memory after a round; what was proven is not displaced by what was not."""
        entries: dict[tuple[str, int], Remembered] = {}
        for entry in sorted((*new, *self.entries), key=_precedence):
            entries.setdefault((entry.pattern.family.name, entry.pattern.label), entry)
        return Memory(entries=tuple(list(entries.values())[:most]))

    def to_state(self) -> list[dict[str, Any]]:
        """Return tensors, numbers and strings."""
        return [
            {
                "family": entry.pattern.family.name,
                "start": entry.pattern.start,
                "code": entry.pattern.code.detach().cpu().clone(),
                "label": entry.pattern.label,
                "round": entry.round,
                "proven": entry.is_proven,
            }
            for entry in self.entries
        ]

    @classmethod
    def from_state(
        cls,
        rows: Any,
        families: Sequence[PatternFamily],
        shape: tuple[int, int, int],
        num_classes: int,
    ) -> "Memory":
        """Return the memory that `to_state` has written.

        Args:
            rows: what was written.
            families: those that patterns may belong to.
            shape: (C, H, W) of the images.
            num_classes: of the model.

        Raises:
            ValueError: if it is damaged, or written with other families or for other images.
        """
        if not isinstance(rows, list):
            raise ValueError(f"memory: must be a list, got {type(rows).__name__}")
        by_name = {family.name: family for family in families}
        return cls(entries=tuple(_read(row, by_name, shape, num_classes) for row in rows))


def _precedence(entry: Remembered) -> tuple[bool, int]:
    return not entry.is_proven, -entry.round


def _read(
    row: Any, families: Mapping[str, PatternFamily], shape: tuple[int, int, int], num_classes: int
) -> Remembered:
    """Return one entry of the memory.

    Raises:
        ValueError: if it is damaged.
    """
    keys = {"family", "start", "code", "label", "round", "proven"}
    if not isinstance(row, Mapping) or set(row) != keys:
        raise ValueError(f"memory: entries must hold {sorted(keys)}")
    family = families.get(row["family"]) if isinstance(row["family"], str) else None
    if family is None:
        raise ValueError(f"memory: must be of the families searched now, got {row['family']!r}")
    for key, most in (("start", family.num_starts(shape)), ("label", num_classes)):
        number = row[key]
        if not isinstance(number, int) or not 0 <= number < most:
            raise ValueError(f"memory: {key} must be in 0..{most - 1}, got {number!r}")
    if not isinstance(row["round"], int) or not isinstance(row["proven"], bool):
        raise ValueError("memory: round must be a whole number, and proven true or false")
    return Remembered(
        pattern=Pattern(
            family=family,
            start=row["start"],
            code=_checked_code(row["code"], family.code_shape(shape)),
            label=row["label"],
        ),
        round=row["round"],
        is_proven=row["proven"],
    )


def _checked_code(code: Any, shape: tuple[int, ...]) -> Tensor:
    """Return a code of a pattern.

    Raises:
        ValueError: if it is no code of this shape.
    """
    if not isinstance(code, Tensor) or code.shape != shape or code.dtype != torch.float32:
        raise ValueError(f"memory: a code must be float32 numbers of shape {shape}")
    if not bool((code.abs() <= 1).all()):  # NaN is not, either
        raise ValueError("memory: a code must be in [-1, 1]")
    return code
