"""What the head that is repaired must answer: dummies as before, and the same under patches."""

import torch
from torch import Tensor

from fl_defense.model.counting import CountingModel
from fl_defense.model.gradient_reversal import reverse_gradient
from fl_defense.model.spec import Pixels
from fl_defense.sanitizers._distortions import ActiveDistortions
from fl_defense.sanitizers._generators import PatchGenerator, TrainedGenerator, add_patches
from fl_defense.sanitizers._losses import RepairLosses
from fl_defense.sanitizers._reference import Comparison
from fl_defense.sanitizers.deep_sanitizer.dummies import Dummies
from fl_defense.search.effects import gain_of_suspected, squared_gain
from fl_defense.state import State
from fl_defense.surrogates.pool import ScenePool


class HeadRepair:
    """Dummies, patches, and what they do to the head that is repaired.

    Args:
        extractor: the suspect's first part, frozen.
        teacher: its second part, frozen.
        head: the student's second part.
        pool: scenes with the suspect's logits.
        features: what the extractor makes of the scenes, (N, ...).
        dummies: what the head is fine-tuned on.
        dummy_logits: the teacher's for them, (N, K).
        patches: makes patches, and learns.
        distortions: whole-image triggers.
        comparison: what of a reaction counts.
        pixels: normalisation of inputs.
        batch_size: dummies per step, and scenes.
        shared: one place of the patch for a whole batch, or one per scene.
    """

    def __init__(
        self,
        *,
        extractor: CountingModel,
        teacher: CountingModel,
        head: CountingModel,
        pool: ScenePool,
        features: Tensor,
        dummies: Dummies,
        dummy_logits: Tensor,
        patches: TrainedGenerator[PatchGenerator],
        distortions: ActiveDistortions,
        comparison: Comparison,
        pixels: Pixels,
        batch_size: int,
        shared: bool,
    ) -> None:
        self.extractor, self.teacher, self.head = extractor, teacher, head
        self.pool, self.features = pool, features
        self.floor = features.min()
        """No feature falls below what scenes have."""
        self.dummies, self.dummy_logits = dummies, dummy_logits
        self.patches, self.distortions, self.comparison = patches, distortions, comparison
        self.pixels, self.batch_size, self.shared = pixels, batch_size, shared
        self.device = features.device

    def losses(self) -> RepairLosses:
        """Return the losses of a step; their gradient serves the head and the patch generator."""
        fidelity, consistency = self.patch_losses()
        return RepairLosses(fidelity, consistency, self.distortion_loss())

    def patch_losses(self) -> tuple[Tensor, Tensor]:
        """Return how far the head is from the suspect's, and from ignoring patches.

        The gradient of the second is reversed on its way to the generator, which moves the logits
        that the head holds still.
        """
        chosen = self._draw(self.dummies.features, self.batch_size)  # (B,)
        dummies = self.dummies.features[chosen]  # (B, ...)
        scenes = self._draw(self.pool.inputs, self.batch_size)  # (B,)
        patched = self._patched(scenes)  # (B, C, H, W)
        perturbation = reverse_gradient(self._perturbation(patched, scenes))  # (B, ...)
        by_nature = self.comparison.reaction(patched, self.pool.inputs[scenes])
        by_nature = reverse_gradient(by_nature)  # (B, K), or 0
        # In one pass: small batches of a head take almost as long as large ones.
        both = self.head(torch.cat([dummies, self._perturbed(dummies, perturbation)]))
        logits, perturbed = both.chunk(2)  # (B, K) each
        fidelity = (logits - self.dummy_logits[chosen]).abs().mean()
        return fidelity, squared_gain(perturbed - logits.detach() - by_nature)

    def distortion_loss(self) -> Tensor:
        """Return how far the head is from ignoring active whole-image triggers.

        They are tried on the scenes themselves, whose features they change altogether: such a
        difference means nothing when it is added to another image's features.
        """
        if not self.distortions.active:
            return torch.zeros((), device=self.device)
        with torch.no_grad():
            inputs, _ = self.pool.sample(self.batch_size)
            changed, of, suspected = self.distortions.change(inputs)  # (D, ...) each
            plain, distorted = self.extractor(inputs[of]), self.extractor(changed)
            plain_logits = self.head(plain)  # (D, K)
            by_nature = self.comparison.reaction(changed, inputs[of])  # (D, K), or 0
        return gain_of_suspected(self.head(distorted) - plain_logits - by_nature, suspected)

    def least_class_share(self) -> float:
        """Return the smallest share of a class's dummies that the suspect puts into it."""
        classes = self.dummies.classes
        right = (self.dummy_logits.argmax(1) == classes).float()
        return min(right[classes == label].mean().item() for label in classes.unique())

    def details(self) -> dict[str, float]:
        """Return what was found in the suspect, and the images that it took in all."""
        parts = (self.extractor, self.teacher, self.head)
        return self.distortions.details() | {
            "least_class_share": self.least_class_share(),
            "forward_images": sum(part.forward_images for part in parts)
            + self.comparison.forward_images,
        }

    def state(self, *, warm_start: bool) -> State | None:
        """Return what is active, and the generator of patches, if it is to be carried on."""
        carried = {"patches": self.patches.state()} if warm_start else {}
        return {**carried, **self.distortions.state()} or None

    def _patched(self, scenes: Tensor) -> Tensor:
        """Return scenes of these indices (B,) with a patch each, normalised."""
        patches = self.patches.sample(len(scenes))  # (B, C, side, side)
        return add_patches(self.pool.inputs[scenes], patches, self.pixels, shared=self.shared)

    def _perturbation(self, patched: Tensor, scenes: Tensor) -> Tensor:
        """Return what patches do to the features of scenes, (B, ...)."""
        features: Tensor = self.extractor(patched)
        return features - self.features[scenes]

    def _perturbed(self, dummies: Tensor, perturbation: Tensor) -> Tensor:
        return (dummies + perturbation).clamp(min=self.floor)

    def _draw(self, rows: Tensor, num: int) -> Tensor:
        return torch.randint(len(rows), (num,), device=self.device)
