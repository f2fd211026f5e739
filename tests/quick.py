"""Settings with which tests of whole runs repair, verify and inspect in milliseconds.

What a method achieves is the subject of its own tests; runs need one that takes every step.
"""

from fl_defense.inspections import TriggerSearch
from fl_defense.sanitizers import DHBE
from fl_defense.search.distortions import DistortionSettings
from fl_defense.search.noise import Noise
from fl_defense.search.patches import PatchSearchSettings
from fl_defense.search.warps import Warps
from fl_defense.search.waves import Waves

SEARCH = TriggerSearch(
    num_scenes=32,
    candidates_per_image=1,
    steps=2,
    batch_size=16,
    num_candidates=2,
    images_per_candidate=16,
    places=PatchSearchSettings(places_per_axis=4, first_steps=2),
    distortions=DistortionSettings(
        noise=Noise(num_patterns=4),
        warp=Warps(num_patterns=4),
        wave=Waves(most_periods=2),
        images_per_candidate=16,
    ),
)
"""Every step of the search, of each few."""
DEFENSE = DHBE(
    iterations=2,
    batch_size=16,
    num_scenes=64,
    candidates_per_image=1,
    places=SEARCH.places,
    distortions=SEARCH.distortions,
)
"""Likewise a repair."""
SEARCH_IN_YAML = (
    "{name: trigger-search, num-scenes: 32, candidates-per-image: 1, steps: 2, batch-size: 16, "
    "num-candidates: 2, images-per-candidate: 16, places: {places-per-axis: 4, first-steps: 2}, "
    "distortions: {noise: {num-patterns: 4}, warp: {num-patterns: 4}, wave: {most-periods: 2}, "
    "images-per-candidate: 16}}"
)
"""The search, as a scenario writes it."""
