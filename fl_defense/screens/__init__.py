"""Screens: filters of client replies. A screen is one file; `base` is their contract."""

from fl_defense.screens.attribution import Attribution
from fl_defense.screens.base import Reply, Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.flame import FLAME
from fl_defense.screens.norm_clipping import NormClipping

SCREENS: dict[str, type[Screen]] = {
    "attribution": Attribution,
    "norm-clipping": NormClipping,
    "flame": FLAME,
}
"""Screens by the name that a scenario gives; a list of names runs them in order."""

__all__ = [
    "FLAME",
    "SCREENS",
    "Attribution",
    "NormClipping",
    "Reply",
    "Screen",
    "ScreenedRound",
    "Screening",
    "Verdict",
]
