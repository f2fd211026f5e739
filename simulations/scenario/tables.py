"""All that a scenario chooses by name: the table, what its entries keep, what lies inside them."""

from fl_defense.inspections import INSPECTIONS, Inspection
from fl_defense.sanitizers import SANITIZERS, Pipeline, Sanitizer
from fl_defense.screens import SCREENS, Screen
from fl_defense.search.patterns import PATTERN_FAMILIES, PatternFamily
from fl_defense.surrogates.base import Surrogate
from fl_defense.surrogates.picture_folder import PictureFolder
from fl_defense.surrogates.scenes import Scenes
from simulations.aggregators import AGGREGATORS, Aggregator
from simulations.attack import ATTACKS, Attack, Backdoor
from simulations.attack.triggers import TRIGGERS, Trigger
from simulations.data import DATASETS, PARTITIONS, ImageSource, Partition
from simulations.engines import ENGINES, Engine
from simulations.metrics import METRICS, Metric
from simulations.models import MODELS
from simulations.models.base import Architecture
from simulations.scenario.imports import Factory, StrategyFactory
from simulations.scenario.named_parts import NamedPart
from simulations.scenario.parts import Part
from simulations.scenario.readers import OneOrSeveral, OrNone
from simulations.tracking import TRACKERS, Tracker
from simulations.training import SCHEDULES, LearningRateSchedule

SURROGATES: dict[str, type[Surrogate]] = {"scenes": Scenes, "folder": PictureFolder, **DATASETS}
"""Where a defense may take unlabelled images from, by the name that a scenario gives."""

DATA = NamedPart(DATASETS, ImageSource)
PARTITION = NamedPart(PARTITIONS, Partition)
MODEL = NamedPart(MODELS, Architecture, factory=Factory)
SCHEDULE = NamedPart(SCHEDULES, LearningRateSchedule)
TRIGGER = NamedPart(TRIGGERS, Trigger)
AGGREGATOR = NamedPart(AGGREGATORS, Aggregator, factory=StrategyFactory)
SURROGATE = NamedPart(SURROGATES, Surrogate)
SANITIZER = NamedPart(SANITIZERS, Sanitizer, nested={Surrogate: SURROGATE})
ATTACK = NamedPart(ATTACKS, Attack, nested={Trigger: TRIGGER, Sanitizer: SANITIZER})
INSPECTION = NamedPart(INSPECTIONS, Inspection)
VERIFICATION = OrNone(INSPECTION)
PATTERNS = NamedPart(PATTERN_FAMILIES, PatternFamily)
SCREEN = NamedPart(SCREENS, Screen, nested={Surrogate: SURROGATE, PatternFamily: PATTERNS})
METRIC = NamedPart(METRICS, Metric)
TRACKER = NamedPart(TRACKERS, Tracker, by_name_alone=True)
ENGINE = NamedPart(ENGINES, Engine)

BACKDOORS = OneOrSeveral(Part(Backdoor, {Trigger: TRIGGER}))
"""How backdoors are read: one, or a list of them."""
SCREENING = OneOrSeveral(SCREEN, or_none=True)
"""How screens are read: a name with its fields, or a list of them, which may be empty."""
MEASURED = OneOrSeveral(METRIC, or_none=True)
"""How metrics are read: a name with its fields, or a list of them, which may be empty."""
TRACKED = OneOrSeveral(TRACKER, or_none=True)
"""How trackers are read: a name, or one with its fields, or a list of them, which may be empty."""
DEFENSE = OneOrSeveral(SANITIZER, join=Pipeline)
"""How a defense is read: a name with its fields, or a list of them."""

TABLES: dict[str, NamedPart] = {
    "data": DATA,
    "partition": PARTITION,
    "model": MODEL,
    "learning-rate-schedule": SCHEDULE,
    "trigger": TRIGGER,
    "attack": ATTACK,
    "aggregator": AGGREGATOR,
    "screens": SCREEN,
    "defense": SANITIZER,
    "patterns": PATTERNS,
    "inspection": INSPECTION,
    "surrogate": SURROGATE,
    "metrics": METRIC,
    "tracking": TRACKER,
    "engine": ENGINE,
}
"""All tables, by the field that chooses from them."""
