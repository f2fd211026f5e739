"""The defenses. Each file reads in the order of its paper; `base` holds their contract."""

from fl_defense.sanitizers.apply import apply_sanitizer, check_sanitizer
from fl_defense.sanitizers.base import ContractError, NoEffectWarning, Sanitized, Sanitizer
from fl_defense.sanitizers.bcu import BCU
from fl_defense.sanitizers.clp import CLP
from fl_defense.sanitizers.deep_cleanse.completion import TrainingHoles
from fl_defense.sanitizers.deep_cleanse.method import DeepCleanse
from fl_defense.sanitizers.deep_sanitizer.method import DeepSanitizer
from fl_defense.sanitizers.dhbe.generators import GeneratorSettings
from fl_defense.sanitizers.dhbe.method import DHBE
from fl_defense.sanitizers.none import NoDefense
from fl_defense.sanitizers.pipeline import Pipeline

SANITIZERS: dict[str, type[Sanitizer]] = {
    "none": NoDefense,
    "dhbe": DHBE,
    "deep-sanitizer": DeepSanitizer,
    "bcu": BCU,
    "deep-cleanse": DeepCleanse,
    "clp": CLP,
}
"""Defenses by the name that a scenario gives; a list of names becomes a `Pipeline`."""

__all__ = [
    "BCU",
    "CLP",
    "DHBE",
    "SANITIZERS",
    "ContractError",
    "DeepCleanse",
    "DeepSanitizer",
    "GeneratorSettings",
    "NoDefense",
    "NoEffectWarning",
    "Pipeline",
    "Sanitized",
    "Sanitizer",
    "TrainingHoles",
    "apply_sanitizer",
    "check_sanitizer",
]
