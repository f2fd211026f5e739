"""Triggers: what an attacker puts on an image. A trigger is one file; `base` is the contract.

Needs torch, and pillow to read a picture.
"""

from simulations.attack.triggers.bars import Bars
from simulations.attack.triggers.base import Trigger
from simulations.attack.triggers.blended import Blended
from simulations.attack.triggers.dynamic import Dynamic
from simulations.attack.triggers.edge_case import EdgeCase
from simulations.attack.triggers.generated import Generated
from simulations.attack.triggers.patch import Patch
from simulations.attack.triggers.sinusoid import Sinusoid
from simulations.attack.triggers.warped import Warped

TRIGGERS: dict[str, type[Trigger]] = {
    "patch": Patch,
    "bars": Bars,
    "blended": Blended,
    "sinusoid": Sinusoid,
    "warped": Warped,
    "dynamic": Dynamic,
    "generated": Generated,
    "edge-case": EdgeCase,
}
"""Triggers by the name that a scenario gives."""

__all__ = [
    "TRIGGERS",
    "Bars",
    "Blended",
    "Dynamic",
    "EdgeCase",
    "Generated",
    "Patch",
    "Sinusoid",
    "Trigger",
    "Warped",
]
