"""Who searches the patches that DHBE's student learns to ignore (paper, P-step)."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fl_defense.model.spec import Pixels
from fl_defense.sanitizers._generators import PatchGenerator, TrainedGenerator, add_patches
from fl_defense.sanitizers._reference import Comparison
from fl_defense.sanitizers.dhbe.images import DistillationImages
from fl_defense.search.patches import PatchSearch
from fl_defense.surrogates.pool import ScenePool


class PatchAdversary(Protocol):
    """Makes patches that move a student's logits, and makes them better."""

    def begin(self, teacher: nn.Module) -> None:
        """Search the teacher, before there is anything to unlearn against."""

    def patch(self, inputs: Tensor) -> Tensor:
        """Return normalised inputs (B, C, H, W) with a patch each."""

    def step(self, student: nn.Module) -> None:
        """Take one step against a student, whose weights are frozen."""

    def details(self) -> dict[str, float]:
        """Return what was found in the teacher, for the record."""

    def state(self) -> dict[str, Any]:
        """Return what `load` takes."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier state."""


class PlacedPatches:
    """Ours: a patch for each place of the image.

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

    def patch(self, inputs: Tensor) -> Tensor:
        """Return patched inputs, strong patches more often."""
        images = self.pixels.denormalize(inputs)
        return self.pixels.normalize(self.search.add_to(images))

    def step(self, student: nn.Module) -> None:
        """Take one step at the strongest places and at some others."""
        training = student.training
        student.eval()  # Searching leaves BatchNorm's statistics alone.
        places = self.search.choose(self.batch_size)
        self.search.step(self.comparison.probe(student, self.pool), places)
        student.train(training)

    def details(self) -> dict[str, float]:
        """Return by how many standard deviations of the logits the strongest lifts a class."""
        return self._found

    def state(self) -> dict[str, Any]:
        """Return what `load` takes."""
        return self.search.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier state."""
        self.search.load(state)


class GeneratedPatches:
    """The paper's: patches of a generator, moved about.

    Args:
        generator: makes patches, and learns.
        images: to put them on.
        pixels: normalisation of inputs.
        effect: from changes of logits (B, K) to the scalar that the generator climbs.
        shared: one place for a whole batch, or one per image.
        clip: cut patched pixels to [0, 1].
    """

    def __init__(
        self,
        generator: TrainedGenerator[PatchGenerator],
        images: DistillationImages,
        pixels: Pixels,
        effect: Callable[[Tensor], Tensor],
        *,
        shared: bool,
        clip: bool,
    ) -> None:
        self.generator, self.images, self.pixels, self.effect = generator, images, pixels, effect
        self.shared, self.clip = shared, clip

    def begin(self, teacher: nn.Module) -> None:
        """Do nothing: a generator learns while the student does."""
        del teacher

    def patch(self, inputs: Tensor) -> Tensor:
        """Return patched inputs; gradients pass to the generator."""
        patches = self.generator.sample(len(inputs))
        return add_patches(inputs, patches, self.pixels, shared=self.shared, clip=self.clip)

    def step(self, student: nn.Module) -> None:
        """Train the generator for one step."""
        self.generator.descend(self.loss(student))

    def loss(self, student: nn.Module) -> Tensor:
        """Return what the generator descends: less the effect on the student's logits."""
        with torch.no_grad():
            inputs = self.images.draw().inputs
            logits = student(inputs)
        return -self.effect(student(self.patch(inputs)) - logits)

    def details(self) -> dict[str, float]:
        """Return nothing: the generator has not met the teacher alone."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return what `load` takes."""
        return self.generator.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier state."""
        self.generator.load(state)
