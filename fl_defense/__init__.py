"""Data-free backdoor defense for federated learning: sanitizers, and a Flower strategy around them.

Letters in names of tensors: b batch, c channels, h height, w width, k classes. `images` are in
[0, 1]; `inputs` are normalised.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fl_defense.flower.checkpoint import CheckpointFile
    from fl_defense.flower.replies import ReplyCheck
    from fl_defense.flower.strategy import SanitizingStrategy
    from fl_defense.inspections import INSPECTIONS, FreeEagle, Inspection, TriggerSearch
    from fl_defense.model.files import export_deployed
    from fl_defense.model.spec import ModelSpec, Pixels
    from fl_defense.rounds.records import RoundOutcome, RoundRecord
    from fl_defense.rounds.schedule import Schedule
    from fl_defense.sanitizers import (
        BCU,
        CLP,
        DHBE,
        SANITIZERS,
        DeepCleanse,
        DeepSanitizer,
        NoDefense,
        Pipeline,
        Sanitized,
        Sanitizer,
        apply_sanitizer,
    )
    from fl_defense.screens import (
        FLAME,
        RFA,
        RLR,
        SCREENS,
        Attribution,
        DeepSight,
        FedGame,
        FilterFL,
        FLTrust,
        FoolsGold,
        MultiMetrics,
        NormClipping,
        Screen,
        WeakDP,
    )
    from fl_defense.surrogates.picture_folder import PictureFolder

_NAMES_OF = {
    "flower.checkpoint": ["CheckpointFile"],
    "flower.replies": ["ReplyCheck"],
    "flower.strategy": ["SanitizingStrategy"],
    "inspections": ["INSPECTIONS", "FreeEagle", "Inspection", "TriggerSearch"],
    "model.files": ["export_deployed"],
    "model.spec": ["ModelSpec", "Pixels"],
    "rounds.records": ["RoundOutcome", "RoundRecord"],
    "rounds.schedule": ["Schedule"],
    "sanitizers": [
        *("BCU", "CLP", "DHBE", "SANITIZERS", "DeepCleanse", "DeepSanitizer", "NoDefense"),
        *("Pipeline", "Sanitized", "Sanitizer", "apply_sanitizer"),
    ],
    "screens": [
        "FLAME",
        "SCREENS",
        "Attribution",
        "NormClipping",
        "Screen",
        "MultiMetrics",
        "FoolsGold",
        "RFA",
        "RLR",
        "WeakDP",
        "FLTrust",
        "DeepSight",
        "FedGame",
        "FilterFL",
    ],
    "surrogates.picture_folder": ["PictureFolder"],
}
_HOME_OF = {name: home for home, names in _NAMES_OF.items() for name in names}

__version__ = "0.1.0"

__all__ = [
    "BCU",
    "CLP",
    "DHBE",
    "FLAME",
    "INSPECTIONS",
    "RFA",
    "RLR",
    "SANITIZERS",
    "SCREENS",
    "Attribution",
    "CheckpointFile",
    "DeepCleanse",
    "DeepSanitizer",
    "DeepSight",
    "FLTrust",
    "FedGame",
    "FilterFL",
    "FoolsGold",
    "FreeEagle",
    "Inspection",
    "ModelSpec",
    "MultiMetrics",
    "NoDefense",
    "NormClipping",
    "PictureFolder",
    "Pipeline",
    "Pixels",
    "ReplyCheck",
    "RoundOutcome",
    "RoundRecord",
    "Sanitized",
    "Sanitizer",
    "SanitizingStrategy",
    "Schedule",
    "Screen",
    "TriggerSearch",
    "WeakDP",
    "apply_sanitizer",
    "export_deployed",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: sanitizers need no Flower, `--help` needs no torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
