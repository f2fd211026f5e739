"""The defenses that benchmarks on single models measure, by their names in the tables."""

from dataclasses import replace
from typing import Any, cast

from benchmarks.controls import CONTROLS
from fl_defense.sanitizers import (
    BCU,
    CLP,
    DHBE,
    DeepCleanse,
    DeepSanitizer,
    NoDefense,
    Sanitizer,
)

SANITIZERS: dict[str, Sanitizer] = {
    "none": NoDefense(),
    "dhbe": DHBE.per_round(),
    "dhbe-faithful": DHBE.faithful(),
    "deep-sanitizer": DeepSanitizer.per_round(),
    "deep-sanitizer-quick": DeepSanitizer.quick(),
    "deep-sanitizer-thorough": DeepSanitizer.thorough(),
    "bcu": BCU.per_round(),
    "deep-cleanse": DeepCleanse.per_round(),
    "clp": CLP(),
    **CONTROLS,
}
LEVERS: dict[str, Sanitizer] = {
    "dhbe in bfloat16": DHBE(precision="bfloat16"),
    "deep-sanitizer in bfloat16": DeepSanitizer(precision="bfloat16"),
    "dhbe, 75 iterations": DHBE(iterations=75),
    "dhbe, 300 iterations": DHBE(iterations=300),
    "dhbe, patches from a generator": DHBE(
        patch_search="generator",
        patched_share=1.0,
        consistency="squared",
        consistency_weight=1.0,
        distorted_share=0.0,
    ),
    "dhbe, student lr 5e-4": DHBE(student_lr=5e-4),
    "dhbe, student lr 2e-3": DHBE(student_lr=2e-3),
    "dhbe, 3 student steps, 50 iterations": DHBE(student_steps=3, iterations=50),
    "dhbe, BatchNorm trained": DHBE(student_batchnorm="train"),
    "dhbe, any scene": DHBE(candidates_per_image=1),
    "dhbe, half generated images": DHBE(scene_share=0.5),
    "dhbe, patch 3": DHBE(patch_size=3),
    "dhbe, patch of the whole image": DHBE(patch_size=28),
    "dhbe, all images patched": DHBE(patched_share=1.0),
    "dhbe, weight 0.1": DHBE(consistency_weight=0.1),
    "dhbe, weight 0.4": DHBE(consistency_weight=0.4),
    "dhbe, no gain tolerated": DHBE(tolerated_gain=0.0),
    "dhbe, gain of 2 tolerated": DHBE(tolerated_gain=2.0),
    "dhbe, squared gain": DHBE(consistency="squared"),
    "dhbe, absolute effect": DHBE(consistency="absolute"),
    "dhbe, distortions not searched": DHBE(distorted_share=0.0),
    "dhbe, distortion weight 0.5": DHBE(distortion_weight=0.5),
    "dhbe, distortion weight 2": DHBE(distortion_weight=2.0),
    "deep-sanitizer, 90 steps": DeepSanitizer(steps=90),
    "deep-sanitizer, 150 steps of 64 dummies": DeepSanitizer(steps=150, batch_size=64),
    "deep-sanitizer, 150 steps of 96 dummies": DeepSanitizer(steps=150, batch_size=96),
    "deep-sanitizer, any scene": DeepSanitizer(candidates_per_image=1),
    "deep-sanitizer, head lr 2e-3": DeepSanitizer(head_lr=2e-3),
}
"""A preset with one lever moved, for the sweeps behind docs/notes/levers.md."""
LEVER_GROUPS = {
    f"{method} levers": [name for name in LEVERS if name.startswith(method)]
    for method in ("dhbe", "deep-sanitizer")
}
"""The levers of one method, by what asks for all of them."""


def changed(sanitizer: Sanitizer, **settings: Any) -> Sanitizer:
    """Return the same defense with other settings; its type does not say that it is a dataclass."""
    return cast("Sanitizer", replace(cast("Any", sanitizer), **settings))
