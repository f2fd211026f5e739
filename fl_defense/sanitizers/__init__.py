"""The defenses. Each file reads in the order of its paper; `base` holds their contract."""

from fl_defense.sanitizers.base import (
    ContractError,
    NoEffectWarning,
    Sanitized,
    Sanitizer,
    apply_sanitizer,
)
from fl_defense.sanitizers.deep_sanitizer import DeepSanitizer
from fl_defense.sanitizers.dhbe import DHBE
from fl_defense.sanitizers.none import NoDefense

SANITIZERS: dict[str, type[Sanitizer]] = {
    "none": NoDefense,
    "dhbe": DHBE,
    "deep-sanitizer": DeepSanitizer,
}
"""Defenses by the name that a scenario gives."""

__all__ = [
    "DHBE",
    "SANITIZERS",
    "ContractError",
    "DeepSanitizer",
    "NoDefense",
    "NoEffectWarning",
    "Sanitized",
    "Sanitizer",
    "apply_sanitizer",
]
