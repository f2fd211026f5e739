"""The inspections: is this model backdoored, and towards which class? `base` is their contract."""

from fl_defense.inspections.base import Finding, Inspection
from fl_defense.inspections.freeeagle import FreeEagle
from fl_defense.inspections.trigger_search import TriggerSearch

INSPECTIONS: dict[str, type[Inspection]] = {
    "trigger-search": TriggerSearch,
    "freeeagle": FreeEagle,
}
"""Inspections by the name that a scenario gives."""

__all__ = ["INSPECTIONS", "Finding", "FreeEagle", "Inspection", "TriggerSearch"]
