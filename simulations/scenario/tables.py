"""All tables that a scenario chooses from by name."""

from collections.abc import Mapping
from typing import Any

from fl_defense.inspections import INSPECTIONS
from fl_defense.sanitizers import SANITIZERS, Pipeline
from fl_defense.screens import SCREENS
from fl_defense.surrogates.picture_folder import PictureFolder
from fl_defense.surrogates.scenes import Scenes
from simulations.aggregators import AGGREGATORS
from simulations.attack import ATTACKS
from simulations.attack.triggers import TRIGGERS
from simulations.data import (
    DATASETS,
    PARTITIONS,
)
from simulations.models import MODELS
from simulations.scenario.engines import ENGINES
from simulations.scenario.named_parts import choice

INSPECTION = choice(INSPECTIONS)
"""How an inspection is read: a name with its fields."""
SURROGATES: dict[str, Any] = {"scenes": Scenes, "folder": PictureFolder, **DATASETS}
"""Where a defense may take unlabelled images from, by the name that a scenario gives."""
DEFENSE = choice(SANITIZERS, in_order=Pipeline, surrogate=choice(SURROGATES))
"""How a defense is read: a name with its fields, or a list of them."""
TABLES: dict[str, Mapping[str, Any]] = {
    "data": DATASETS,
    "partition": PARTITIONS,
    "model": MODELS,
    "trigger": TRIGGERS,
    "attack": ATTACKS,
    "aggregator": AGGREGATORS,
    "screens": SCREENS,
    "defense": SANITIZERS,
    "inspection": INSPECTIONS,
    "surrogate": SURROGATES,
    "engine": ENGINES,
}
"""All tables, by the field that chooses from them."""
