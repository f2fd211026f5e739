"""Images that a server may own without any client's data. `base` is their contract."""

from fl_defense.surrogates.base import Surrogate
from fl_defense.surrogates.familiarity import draw_familiar, most_familiar, unfamiliarity
from fl_defense.surrogates.pool import ScenePool, class_balance
from fl_defense.surrogates.scenes import Scenes, scenes

__all__ = [
    "ScenePool",
    "Scenes",
    "Surrogate",
    "class_balance",
    "draw_familiar",
    "most_familiar",
    "scenes",
    "unfamiliarity",
]
