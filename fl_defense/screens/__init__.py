"""Screens: filters of client replies. A screen is one file; `base` is their contract."""

from fl_defense.screens.attribution import Attribution
from fl_defense.screens.base import Reply, Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.deepsight import DeepSight
from fl_defense.screens.fedgame import FedGame
from fl_defense.screens.filterfl import FilterFL
from fl_defense.screens.flame import FLAME
from fl_defense.screens.fltrust import FLTrust
from fl_defense.screens.foolsgold import FoolsGold
from fl_defense.screens.multi_metrics import MultiMetrics
from fl_defense.screens.norm_clipping import NormClipping
from fl_defense.screens.rfa import RFA
from fl_defense.screens.rlr import RLR
from fl_defense.screens.weak_dp import WeakDP

SCREENS: dict[str, type[Screen]] = {
    "attribution": Attribution,
    "norm-clipping": NormClipping,
    "flame": FLAME,
    "multi-metrics": MultiMetrics,
    "foolsgold": FoolsGold,
    "rfa": RFA,
    "rlr": RLR,
    "weak-dp": WeakDP,
    "fltrust": FLTrust,
    "deepsight": DeepSight,
    "fedgame": FedGame,
    "filterfl": FilterFL,
}
"""Screens by the name that a scenario gives; a list of names runs them in order."""

__all__ = [
    "FLAME",
    "RFA",
    "RLR",
    "SCREENS",
    "Attribution",
    "DeepSight",
    "FLTrust",
    "FedGame",
    "FilterFL",
    "FoolsGold",
    "MultiMetrics",
    "NormClipping",
    "Reply",
    "Screen",
    "ScreenedRound",
    "Screening",
    "Verdict",
    "WeakDP",
]
