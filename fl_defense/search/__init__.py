"""Data-free search for triggers in a network. A family of patterns is one file."""

from fl_defense.search.distortions import DistortionSettings
from fl_defense.search.noise import Noise
from fl_defense.search.patches import PatchSearchSettings
from fl_defense.search.warps import Warps
from fl_defense.search.waves import Waves

__all__ = ["DistortionSettings", "Noise", "PatchSearchSettings", "Warps", "Waves"]
