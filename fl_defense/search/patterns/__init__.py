"""Families of patterns that a free search shapes. A family is one file; `base` is the contract."""

from fl_defense.search.patterns.additive import Additive
from fl_defense.search.patterns.base import Pattern, PatternFamily
from fl_defense.search.patterns.displacements import Displacements
from fl_defense.search.patterns.low_frequency import LowFrequency
from fl_defense.search.patterns.patches import Patches

PATTERN_FAMILIES: dict[str, type[PatternFamily]] = {
    "patches": Patches,
    "additive": Additive,
    "low-frequency": LowFrequency,
    "displacements": Displacements,
}
"""Families by the name that a scenario gives."""

__all__ = [
    "PATTERN_FAMILIES",
    "Additive",
    "Displacements",
    "LowFrequency",
    "Patches",
    "Pattern",
    "PatternFamily",
]
