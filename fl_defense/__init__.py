"""Data-free backdoor defense for federated learning: sanitizers, and a Flower strategy around them.

Letters in names of tensors: b batch, c channels, h height, w width, k classes. `images` are in
[0, 1]; `inputs` are normalised.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fl_defense.inspections import INSPECTIONS, FreeEagle, Inspection, TriggerSearch
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

if TYPE_CHECKING:
    from fl_defense.flower.checkpoint import CheckpointFile
    from fl_defense.flower.replies import ReplyCheck
    from fl_defense.flower.strategy import SanitizingStrategy
    from fl_defense.model.files import export_deployed
    from fl_defense.surrogates.picture_folder import PictureFolder

_NEEDS_MORE_THAN_TORCH = {
    "CheckpointFile": "fl_defense.flower.checkpoint",
    "PictureFolder": "fl_defense.surrogates.picture_folder",
    "ReplyCheck": "fl_defense.flower.replies",
    "SanitizingStrategy": "fl_defense.flower.strategy",
    "export_deployed": "fl_defense.model.files",
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
    """Import what needs more than torch when it is first used: sanitizers alone must not."""
    if name not in _NEEDS_MORE_THAN_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NEEDS_MORE_THAN_TORCH[name]), name)
