"""DHBE's distillation: teacher, student, the student's losses, and its adversaries."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fl_defense.model.counting import CountingModel
from fl_defense.sanitizers._distortions import ActiveDistortions
from fl_defense.sanitizers._losses import RepairLosses
from fl_defense.sanitizers._placed_patches import PlacedPatches
from fl_defense.sanitizers._reference import Comparison
from fl_defense.sanitizers.dhbe.adversaries import PatchAdversary
from fl_defense.sanitizers.dhbe.images import DistillationImages, GeneratedImages
from fl_defense.search.effects import excess_gain, gain_of_suspected, squared_gain
from fl_defense.state import State

Consistency = Literal["excess", "squared", "absolute"]


@dataclass(frozen=True)
class PatchEffect:
    """What counts of a patch's effect on the logits."""

    counts: Consistency
    """The largest gain beyond `tolerated`, all gains, squared, or every change as in the paper."""
    tolerated: float
    """Gain that no patch is blamed for, in logits."""

    def __call__(self, change: Tensor) -> Tensor:
        """Measure by how much patches changed the logits (B, K): a scalar."""
        if self.counts == "excess":
            return excess_gain(change, self.tolerated)
        if self.counts == "squared":
            return squared_gain(change)
        return change.abs().mean()


class Distillation:
    """The student's losses (paper, eq. of the S-step), and the searches against it.

    Distances are taken on raw logits, means over batch and classes.

    Args:
        teacher: the suspect, frozen.
        student: what is repaired.
        images: what both are shown.
        patches: what the student must ignore.
        distortions: the whole-image triggers that it must ignore.
        comparison: what of a reaction counts.
        effect: of a patch.
        patched_share: of a batch's images, in (0, 1].
        warm_start: carry patches, or generators, to the next round.
    """

    def __init__(
        self,
        teacher: CountingModel,
        student: CountingModel,
        images: DistillationImages,
        patches: PatchAdversary,
        distortions: ActiveDistortions,
        comparison: Comparison,
        effect: PatchEffect,
        *,
        patched_share: float,
        warm_start: bool,
    ) -> None:
        self.teacher, self.student, self.images = teacher, student, images
        self.patches, self.distortions, self.comparison = patches, distortions, comparison
        self.effect, self.patched_share, self.warm_start = effect, patched_share, warm_start

    @property
    def adversaries(self) -> list[PatchAdversary | GeneratedImages]:
        """All that search against the student, in their order."""
        generated = [] if self.images.generated is None else [self.images.generated]
        if isinstance(self.patches, PlacedPatches):
            return [self.patches, *generated]
        return [*generated, self.patches]

    def begin(self, state: State | None) -> None:
        """Search the teacher, from where the round before has left off if that was carried."""
        if self.warm_start and state is not None:
            for name, adversary in self._carried().items():
                adversary.load(state[name])
        self.patches.begin(self.teacher)
        if self.images.pool is not None:
            self.distortions.search(self.teacher, self.images.pool, self.comparison, state)

    def student_losses(self) -> RepairLosses:
        """Return how far the student is from the teacher, and from ignoring patch and distortions.

        The target under both is the student's own answer without them, held fixed.
        """
        with torch.no_grad():
            batch = self.images.draw()
            patched_of = self._choose_patched(len(batch.inputs))  # (P,)
            patched = self.patches.patch(batch.inputs[patched_of])  # (P, C, H, W)
            scenes = batch.inputs[: len(batch.scenes)]
            distorted, distorted_of, suspected = self.distortions.change(scenes)  # (D, ...) each
            teacher_logits = self.images.teacher_logits(batch)  # (B, K)
            changed, changed_of = (
                torch.cat([patched, distorted]),
                torch.cat([patched_of, distorted_of]),
            )
            by_nature = self.comparison.reaction(changed, batch.inputs[changed_of])
        logits = self.student(batch.inputs)  # (B, K)
        change = self.student(changed) - logits.detach()[changed_of] - by_nature  # (P + D, K)
        by_patch, by_distortion = change.split([len(patched), len(distorted)])
        return RepairLosses(
            fidelity=(logits - teacher_logits).abs().mean(),
            consistency=self.effect(by_patch),
            distortion=gain_of_suspected(by_distortion, suspected),
        )

    def details(self) -> dict[str, float]:
        """Return what was found in the teacher, and the images that it took in all."""
        passed = self.teacher.forward_images + self.student.forward_images
        passed += self.comparison.forward_images
        found = self.patches.details() | self.distortions.details()
        return found | {"forward_images": passed}

    def state(self) -> State | None:
        """Return what is active, and patches or generators, if they are to be carried on."""
        carried: dict[str, Any] = {}
        if self.warm_start:
            carried = {name: each.state() for name, each in self._carried().items()}
        return {**carried, **self.distortions.state()} or None

    def _carried(self) -> dict[str, PatchAdversary | GeneratedImages]:
        generated = self.images.generated
        images = {} if generated is None else {"images": generated}
        return {**images, "patches": self.patches}

    def _choose_patched(self, num: int) -> Tensor:
        """Return which of `num` inputs are patched, indices."""
        device = next(self.student.parameters()).device
        num_patched = max(1, round(self.patched_share * num))
        if num_patched == num:
            return torch.arange(num, device=device)
        return torch.randperm(num, device=device)[:num_patched]
