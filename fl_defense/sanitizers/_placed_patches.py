"""The patches that DHBE's student and DeepSanitizer's head learn to ignore: one for each place."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fl_defense.model.spec import Pixels
from fl_defense.model.training import in_eval_mode
from fl_defense.sanitizers._reference import Comparison
from fl_defense.search.patches import PatchSearch
from fl_defense.surrogates.pool import ScenePool


def tolerated_gain(deviations: float, spread: float, num_classes: int, from_classes: int) -> float:
    """Return a gain that no patch is blamed for, in logits.

    Of few logits each lies far out in their own deviations, and a flip takes fewer of these.

    Args:
        deviations: the gain in standard deviations of the logits of a scene.
        spread: this standard deviation.
        num_classes: of the network.
        from_classes: classes from which on the gain holds as it is.

    Example:
        >>> tolerated_gain(1.0, 2.0, num_classes=40, from_classes=10)
        2.0
        >>> tolerated_gain(1.0, 2.0, num_classes=5, from_classes=20)
        1.0
    """
    return deviations * spread * math.sqrt(min(1.0, num_classes / from_classes))


class PlacedPatches:
    """A patch for each place of the image, searched against what is repaired.

    Args:
        search: the patches.
        pool: scenes to search on, with the teacher's logits.
        pixels: normalisation of inputs.
        comparison: what of a patch's effect counts.
        batch_size: images in a step.
    """

    def __init__(
        self,
        search: PatchSearch,
        pool: ScenePool,
        pixels: Pixels,
        comparison: Comparison,
        *,
        batch_size: int,
    ) -> None:
        self.search, self.pool, self.pixels = search, pool, pixels
        self.comparison, self.batch_size = comparison, batch_size
        self._found: dict[str, float] = {}

    def begin(self, teacher: nn.Module) -> None:
        """Take the first steps, at every place, against the teacher."""
        self.search.search_everywhere(self.comparison.probe(teacher, self.pool))
        spread = self.comparison.spread(self.pool)
        self._found = {"patch_gain": self.search.strongest_gain() / spread}

    @torch.no_grad()
    def patch(self, inputs: Tensor) -> Tensor:
        """Return patched inputs, strong patches more often."""
        images = self.pixels.denormalize(inputs)
        return self.pixels.normalize(self.search.put_on(images))

    def step(self, student: nn.Module) -> None:
        """Take one step at the strongest places and at some others."""
        places = self.search.choose(self.batch_size)
        with in_eval_mode(student):  # Searching leaves BatchNorm's statistics alone.
            self.search.step(self.comparison.probe(student, self.pool), places)

    def details(self) -> dict[str, float]:
        """Return by how many standard deviations of the logits the strongest lifts a class."""
        return self._found

    def state(self) -> dict[str, Any]:
        """Return what `load` takes."""
        return self.search.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier state."""
        self.search.load(state)
