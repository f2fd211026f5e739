"""Who searches the patches that DHBE's student learns to ignore (paper, P-step)."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fl_defense.model.spec import Pixels
from fl_defense.sanitizers._generators import PatchGenerator, TrainedGenerator, add_patches
from fl_defense.sanitizers.dhbe.images import DistillationImages


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
