"""What the head that is repaired must answer: dummies as before, and scenes alike under patches."""

import torch
from torch import Tensor, nn

from fl_defense.model.counting import CountingModel
from fl_defense.model.spec import Pixels
from fl_defense.sanitizers._distortions import ActiveDistortions
from fl_defense.sanitizers._losses import RepairLosses
from fl_defense.sanitizers._placed_patches import PlacedPatches
from fl_defense.sanitizers._reference import Comparison
from fl_defense.sanitizers.deep_sanitizer.dummies import Dummies
from fl_defense.search.effects import excess_gain, gain_of_suspected
from fl_defense.state import State
from fl_defense.surrogates.pool import ScenePool, class_balance


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
        patches: what the head must ignore.
        distortions: whole-image triggers.
        comparison: what of a reaction counts.
        pixels: normalisation of inputs.
        batch_size: dummies per step.
        num_patched: patched scenes per step.
        tolerated: gain that no patch is blamed for, in logits.
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
        patches: PlacedPatches,
        distortions: ActiveDistortions,
        comparison: Comparison,
        pixels: Pixels,
        batch_size: int,
        num_patched: int,
        tolerated: float,
    ) -> None:
        self.extractor, self.teacher, self.head = extractor, teacher, head
        self.pool, self.features = pool, features
        self.dummies, self.dummy_logits = dummies, dummy_logits
        self.patches, self.distortions, self.comparison = patches, distortions, comparison
        self.pixels, self.batch_size, self.num_patched = pixels, batch_size, num_patched
        self.tolerated = tolerated
        self.student = nn.Sequential(extractor, head)
        """The whole network that is repaired; patches are searched against it."""
        self.device = features.device
        self._weights = class_balance(dummy_logits)

    def losses(self) -> RepairLosses:
        """Return the losses of a step."""
        fidelity, consistency = self.patch_losses()
        return RepairLosses(fidelity, consistency, self.distortion_loss())

    def patch_losses(self) -> tuple[Tensor, Tensor]:
        """Return how far the head is from the suspect's, and from ignoring patches.

        Dummies stand for images of all classes. Patches are on scenes, and judged by what the
        extractor makes of both: what they do to one image's features may mean nothing in another's.
        """
        chosen = torch.multinomial(self._weights, self.batch_size, replacement=True)  # (B,)
        scenes = self.pool.draw(self.num_patched)  # (P,)
        inputs = self.pool.inputs[scenes]
        with torch.no_grad():
            changed = self.patches.patch(inputs)  # (P, C, H, W)
            patched = self.extractor(changed)  # (P, ...)
            by_nature = self.comparison.reaction(changed, inputs)  # (P, K), or 0
        plain = self.features[scenes]
        # In one pass: small batches of a head take almost as long as large ones.
        together = self.head(torch.cat([self.dummies.features[chosen], patched, plain]))
        logits, under_patch, without = together.split([len(chosen), len(scenes), len(scenes)])
        fidelity = (logits - self.dummy_logits[chosen]).abs().mean()
        change = under_patch - without.detach() - by_nature
        return fidelity, excess_gain(change, self.tolerated)

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
        return (
            self.patches.details()
            | self.distortions.details()
            | {
                "least_class_share": self.least_class_share(),
                "forward_images": sum(part.forward_images for part in parts)
                + self.comparison.forward_images,
            }
        )

    def state(self, *, warm_start: bool) -> State | None:
        """Return what is active, and the patches, if they are to be carried on."""
        carried = {"patches": self.patches.state()} if warm_start else {}
        return {**carried, **self.distortions.state()} or None
