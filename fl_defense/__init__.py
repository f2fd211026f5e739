"""Data-free backdoor repair for federated learning: sanitizers, and a Flower strategy around them.

Letters in names of tensors: b batch, c channels, h height, w width, k classes. `images` are in
[0, 1]; `inputs` are normalised.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fl_defense.checkpoint import CheckpointFile
    from fl_defense.inspections import INSPECTIONS, FreeEagle, Inspection, TriggerSearch
    from fl_defense.model_files import export_deployed
    from fl_defense.model_spec import ModelSpec, Pixels
    from fl_defense.pictures import PictureFolder
    from fl_defense.records import RoundOutcome, RoundRecord
    from fl_defense.replies import ReplyCheck
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
    from fl_defense.schedule import Schedule
    from fl_defense.strategy import SanitizingStrategy

_MODULES = {
    "BCU": "fl_defense.sanitizers",
    "CLP": "fl_defense.sanitizers",
    "DHBE": "fl_defense.sanitizers",
    "INSPECTIONS": "fl_defense.inspections",
    "SANITIZERS": "fl_defense.sanitizers",
    "CheckpointFile": "fl_defense.checkpoint",
    "DeepCleanse": "fl_defense.sanitizers",
    "DeepSanitizer": "fl_defense.sanitizers",
    "FreeEagle": "fl_defense.inspections",
    "Inspection": "fl_defense.inspections",
    "ModelSpec": "fl_defense.model_spec",
    "NoDefense": "fl_defense.sanitizers",
    "PictureFolder": "fl_defense.pictures",
    "Pipeline": "fl_defense.sanitizers",
    "Pixels": "fl_defense.model_spec",
    "ReplyCheck": "fl_defense.replies",
    "RoundOutcome": "fl_defense.records",
    "RoundRecord": "fl_defense.records",
    "Sanitized": "fl_defense.sanitizers",
    "Sanitizer": "fl_defense.sanitizers",
    "SanitizingStrategy": "fl_defense.strategy",
    "Schedule": "fl_defense.schedule",
    "TriggerSearch": "fl_defense.inspections",
    "apply_sanitizer": "fl_defense.sanitizers",
    "export_deployed": "fl_defense.model_files",
}

__all__ = [
    "BCU",
    "CLP",
    "DHBE",
    "INSPECTIONS",
    "SANITIZERS",
    "CheckpointFile",
    "DeepCleanse",
    "DeepSanitizer",
    "FreeEagle",
    "Inspection",
    "ModelSpec",
    "NoDefense",
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
    "TriggerSearch",
    "apply_sanitizer",
    "export_deployed",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: sanitizers alone must not need Flower."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
