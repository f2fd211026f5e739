"""Attacks: what malicious clients do. An attack is one file; `base` is the contract."""

from simulations.attack.backdoor import Backdoor
from simulations.attack.badnets import BadNets
from simulations.attack.base import Attack
from simulations.attack.none import NoAttack

ATTACKS: dict[str, type[Attack]] = {"none": NoAttack, "badnets": BadNets}
"""Attacks by the name that a scenario gives."""

__all__ = ["ATTACKS", "Attack", "Backdoor", "BadNets", "NoAttack"]
