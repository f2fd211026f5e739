"""DHBE: data-free holistic backdoor erasing by restricted adversarial distillation.

Idea: a student starts as a copy of the suspect (the teacher) and must go on answering like it on
images that nobody's data are in. Meanwhile the small patches are searched that move the student's
answer most, and the student learns to ignore them. Whatever acts like a trigger is unlearned
without being named.

Reference: Yan et al., "DHBE: Data-free Holistic Backdoor Erasing in Deep Neural Networks via
Restricted Adversarial Distillation", AsiaCCS 2023, arXiv 2306.08009. `DHBE.faithful()` has the
settings of the authors' code: 15,000 iterations, hours on a CPU.

Deviations of `DHBE.per_round()`, which is made for a repair after every aggregation:
  1. Images are procedural scenes instead of a generator's, which needs thousands of steps before
     its images are worth distilling on. Of many scenes those are kept that are most familiar to
     the teacher's BatchNorm statistics, and they are drawn so that the teacher's classes come
     equally often.
  2. The student's BatchNorm statistics are frozen: a short run would replace the statistics of
     real images by those of scenes.
  3. Adam instead of SGD for the student, with a one-cycle learning rate: one rate then serves
     networks whose weights differ in scale. One student step per iteration instead of five.
  4. A patch is searched for each place of the image by itself (`PatchSearch`) instead of by a
     generator whose patches are moved about: a trigger works where it was planted, and hardly
     anywhere else. Its pixels replace those of the image, as a trigger's do, and are not added.
  5. Of a patch's effect on the logits only that counts by which one class gains more than patches
     let classes gain in any network. A model that no patch moves further has nothing to unlearn,
     and is left nearly as it was.
  6. The search for patches does not find triggers over the whole image. Three kinds of them, noise,
     warps and waves, are searched before it (`search.distortions`). One that lifts a class of the
     teacher far enough is active, and unlearned, too: on scenes that are changed so the suspected
     class must not gain. In the round after, less of it is enough to be unlearned again.
  7. With a reference, an earlier model that is trusted, only what the student does more than it on
     the same changed scenes counts: in the search, and in what is unlearned.
  8. The search for patches starts afresh in each round; `warm_start` carries them on.
What each deviation is worth is in docs/notes/levers.md.

Needs: image shape and pixel normalisation. No images. Cost: `details["forward_images"]` counts the
images passed forward through teacher and student; backward passes come on top. What the searches
found before the repair is recorded, too: by how many standard deviations of the logits the
strongest patch, noise, warp and wave lift a class (`patch_gain`, `noise_gain`, `warp_gain`,
`wave_gain`).
"""

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from fl_defense.facts import Facts
from fl_defense.model.batches import in_chunks
from fl_defense.model.counting import CountingModel
from fl_defense.model.precision import Execution, Precision
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import (
    frozen_copy,
    require_gradients,
    require_image_gradient,
    trainable,
)
from fl_defense.progress import counted
from fl_defense.sanitizers._distortions import ActiveDistortions
from fl_defense.sanitizers._generators import (
    PatchGenerator,
    TrainedGenerator,
    one_cycle,
)
from fl_defense.sanitizers._losses import RepairLosses
from fl_defense.sanitizers._placed_patches import PlacedPatches, tolerated_gain
from fl_defense.sanitizers._reference import Comparison, compared_with
from fl_defense.sanitizers.base import Sanitized, Sanitizer
from fl_defense.sanitizers.dhbe.adversaries import GeneratedPatches, PatchAdversary
from fl_defense.sanitizers.dhbe.distillation import Consistency, Distillation, PatchEffect
from fl_defense.sanitizers.dhbe.generators import GeneratorSettings
from fl_defense.sanitizers.dhbe.images import DistillationImages, GeneratedImages
from fl_defense.search.distortions import DistortionSettings
from fl_defense.search.patches import PatchSearch, PatchSearchSettings, searched_side
from fl_defense.state import State
from fl_defense.surrogates.familiarity import draw_familiar
from fl_defense.surrogates.pool import ScenePool
from fl_defense.surrogates.scenes import Scenes
from fl_defense.validation import (
    require,
    require_at_least,
    require_declared,
    require_positive,
    require_share,
)


@dataclass(frozen=True, kw_only=True)
class DHBE(Sanitizer):
    """Restricted adversarial distillation; the defaults are those of `per_round`.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> from fl_defense import apply_sanitizer
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> quick = DHBE(iterations=2, num_scenes=32, patch_size=3, consistency="squared")
        >>> repaired = apply_sanitizer(quick, spec.build(), spec)
        >>> sorted(repaired.details)[:3]
        ['consistency', 'distortion', 'fidelity']
    """

    iterations: int = 150
    """Outer iterations; each has `student_steps` student steps and one step of each search."""
    student_steps: int = 1
    """Student steps per outer iteration."""
    batch_size: int = 96
    """Images per step."""
    student_optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or the paper's SGD with momentum 0.9."""
    student_lr: float = 1e-3
    """Peak learning rate of the student."""
    lr_schedule: Literal["one-cycle", "step"] = "one-cycle"
    """One-cycle with 10 % warm-up, or the paper's factor 0.1 at 60 % and 80 %, generators too."""
    weight_decay: float = 0.0
    """Of the student's optimiser."""
    student_batchnorm: Literal["frozen", "train"] = "frozen"
    """Keep the student's BatchNorm statistics, or update them as the paper does."""
    scene_share: float = 1.0
    """Share of procedural scenes in a batch, in [0, 1]; the image generator makes the rest."""
    num_scenes: int = 2000
    """Scenes to draw batches from, if any are used."""
    candidates_per_image: int = 4
    """Scenes made for each one kept; those most familiar to the teacher's BatchNorm are kept."""
    patch_search: Literal["places", "generator"] = "places"
    """Search a patch for each place of the image, or the paper's generator of patches."""
    patch_size: int = 5
    """Side of the searched patch in pixels, 3 to the whole image."""
    patched_share: float = 0.33
    """Share of a batch's images that are patched for the student, in (0, 1]."""
    consistency: Consistency = "excess"
    """What counts of a patch's effect on the logits: the largest gain beyond `tolerated_gain`, all
    gains, squared, or every change as in the paper."""
    tolerated_gain: float = 1.0
    """Gain that no patch is blamed for, in standard deviations of the logits of a scene."""
    tolerated_over_reference: float = 0.15
    """The same where a reference is given, beyond the reference's own gain."""
    tolerated_from_classes: int = 10
    """Classes from which on these gains hold as they are; with fewer, K, they are multiplied by
    sqrt(K / this): of few logits each lies far out in their own deviations."""
    consistency_weight: float = 0.2
    """Weight of ignoring the patch against answering like the teacher (lambda_d1)."""
    distorted_share: float = 0.33
    """Share of a batch's scenes that each kind of whole-image trigger found in the teacher (noise,
    warps, waves) changes, in [0, 1]; 0: none is looked for."""
    distortion_weight: float = 1.0
    """Weight of ignoring these changes against answering like the teacher."""
    warm_start: bool = False
    """Carry the patches, or the generators and their optimisers, to the next round."""
    precision: Precision = "float32"
    """Of teacher and student. bfloat16 takes 70 to 115 % of the time on a CPU with AVX-512 BF16,
    is made for GPUs since Ampere, not measured there, and is slower on hardware without it."""
    places: PatchSearchSettings = PatchSearchSettings()
    """How a patch is searched for each place."""
    distortions: DistortionSettings = DistortionSettings()
    """How whole-image triggers are searched."""
    generators: GeneratorSettings = GeneratorSettings()
    """The generators, where images or patches are generated."""

    uses_reference: ClassVar[bool] = True
    facts: ClassVar[Facts] = Facts(
        changes="all weights",
        cost="110,000 to 135,000 passes of an image, backward ones among them",
        paper="Yan et al., AsiaCCS 2023, arXiv 2306.08009; shortened by us",
        limits="patches larger than `patch-size`; whole-image triggers of other families",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, iterations=1, student_steps=1, batch_size=2, num_scenes=1)
        require_at_least(self, candidates_per_image=1, patch_size=3, weight_decay=0)
        require_at_least(self, tolerated_gain=0, tolerated_over_reference=0)
        require_at_least(self, tolerated_from_classes=1)
        require_at_least(self, consistency_weight=0, distortion_weight=0)
        require_positive(self, "student_lr")
        require_share(self, "scene_share", "distorted_share")
        share = self.patched_share
        require(0 < share <= 1, "patched_share", "in (0, 1]", share)
        on_scenes = self.patch_search == "places" or self.consistency == "excess"
        if on_scenes or self.distorted_share > 0:
            wanted = "above 0 where patches are searched on scenes or scenes distorted"
            require(self.scene_share > 0, "scene_share", wanted, self.scene_share)

    @classmethod
    def per_round(cls) -> Self:
        """Return the short run for a repair after every aggregation."""
        return cls()

    @classmethod
    def faithful(cls) -> Self:
        """Return the settings of the authors' code."""
        return cls(
            iterations=15_000,
            student_steps=5,
            batch_size=256,
            student_optimizer="sgd",
            student_lr=0.1,
            lr_schedule="step",
            weight_decay=5e-4,
            student_batchnorm="train",
            scene_share=0.0,
            patch_search="generator",
            patched_share=1.0,
            consistency="absolute",
            consistency_weight=0.1,
            distorted_share=0.0,
            generators=GeneratorSettings(
                lr=1e-3, latent_size=256, width=64, patch_location="shared", clip_pixels=False
            ),
        )

    @classmethod
    def presets(cls) -> dict[str, Self]:
        """Return the presets by the name that a scenario gives."""
        return {
            "per-round": cls.per_round(),
            "faithful": cls.faithful(),
        }

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse images that are too small, and networks that gradients do not pass or change.

        Raises:
            ValueError: if the patch is larger than the image, no gradient comes back to images, or
                no parameter may be trained.
        """
        trainable(model)
        searched_side(self.patch_size, spec.input_shape)
        require_image_gradient(model, spec.input_shape)

    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: State | None = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        """Distil `suspect` into a copy of itself that ignores patches.

        Raises:
            ValueError: if the patch is larger than the image.
        """
        self.check(suspect, spec)
        student = copy.deepcopy(suspect).train(self.student_batchnorm == "train")
        parameters = trainable(student)
        loop = self.distillation(frozen_copy(suspect), student, spec, reference)
        loop.begin(state)
        descent, schedule = self._optimizer(parameters)

        losses = RepairLosses.zero()
        for _ in counted("distilling", range(self.iterations)):
            require_gradients(parameters, True)
            for _ in range(self.student_steps):
                losses = loop.student_losses()
                descent.zero_grad(set_to_none=True)
                self._total(losses).backward()
                descent.step()
                schedule.step()
            require_gradients(parameters, False)
            for adversary in loop.adversaries:
                adversary.step(loop.student)

        require_gradients(parameters, True)
        details = losses.details() | loop.details()
        return Sanitized(model=student.eval(), state=loop.state(), details=details)

    def distillation(
        self,
        suspect: nn.Module,
        student: nn.Module,
        spec: ModelSpec,
        reference: nn.Module | None = None,
    ) -> Distillation:
        """Return the distillation into a student, before anything was searched."""
        device = next(student.parameters()).device
        execution = Execution(self.precision, suspect, spec.input_shape)
        teacher = CountingModel(execution.of(suspect))
        comparison = compared_with(reference, execution, spec.pixels)
        generator = None
        if self.patch_search == "generator":
            generator = self.generators.patches(spec, self.patch_size, device, self.milestones())
        images = self._images(teacher, spec, device)
        deviations = self.tolerated_gain if reference is None else self.tolerated_over_reference
        spread = 1.0 if images.pool is None else comparison.spread(images.pool)
        tolerated = tolerated_gain(
            deviations, spread, spec.num_classes, self.tolerated_from_classes
        )
        effect = PatchEffect(self.consistency, tolerated)
        return Distillation(
            teacher,
            CountingModel(execution.of(student)),
            images,
            self._patches(generator, images, comparison, effect, spec, device),
            ActiveDistortions(self.distortions, spec, self.distorted_share, device),
            comparison,
            effect,
            patched_share=self.patched_share,
            warm_start=self.warm_start,
        )

    def milestones(self) -> list[int]:
        """Return the steps after which the paper's learning rates fall, of an outer iteration."""
        return _milestones(self.iterations) if self.lr_schedule == "step" else []

    def _optimizer(
        self, parameters: list[nn.Parameter]
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        decay = self.weight_decay
        optimizer: torch.optim.Optimizer
        if self.student_optimizer == "adam":
            optimizer = torch.optim.AdamW(parameters, self.student_lr, weight_decay=decay)
        else:
            optimizer = torch.optim.SGD(
                parameters, self.student_lr, momentum=0.9, weight_decay=decay
            )
        steps = self.iterations * self.student_steps
        if self.lr_schedule == "step":
            return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, _milestones(steps))
        return optimizer, one_cycle(optimizer, self.student_lr, steps)

    def _total(self, losses: RepairLosses) -> Tensor:
        return losses.total(
            consistency_weight=self.consistency_weight, distortion_weight=self.distortion_weight
        )

    def _images(
        self, teacher: nn.Module, spec: ModelSpec, device: torch.device
    ) -> DistillationImages:
        """Return batches of scenes, of generated images, or of both."""
        num_scenes = round(self.scene_share * self.batch_size)
        generated = pool = None
        if self.scene_share < 1:
            generated = GeneratedImages(
                self.generators.images(spec, device, self.milestones()),
                teacher,
                num=self.batch_size - num_scenes,
                batch_size=self.batch_size,
                total_variation_weight=self.generators.total_variation_weight,
            )
        if self.scene_share > 0:
            num, candidates = self.num_scenes, self.candidates_per_image
            inputs = draw_familiar(Scenes(), teacher, spec, num, candidates)
            pool = ScenePool(inputs, in_chunks(teacher, inputs))
        return DistillationImages(pool, num_scenes, generated, teacher)

    def _patches(
        self,
        generator: TrainedGenerator[PatchGenerator] | None,
        images: DistillationImages,
        comparison: Comparison,
        effect: PatchEffect,
        spec: ModelSpec,
        device: torch.device,
    ) -> PatchAdversary:
        if generator is not None:
            shared, clip = self.generators.patch_location == "shared", self.generators.clip_pixels
            return GeneratedPatches(
                generator, images, spec.pixels, effect, shared=shared, clip=clip
            )
        assert images.pool is not None
        search = PatchSearch(self.places, spec.input_shape, self.patch_size, device)
        return PlacedPatches(
            search, images.pool, spec.pixels, comparison, batch_size=self.batch_size
        )


def _milestones(steps: int) -> list[int]:
    """Return after which of `steps` the paper's learning rates fall."""
    return [int(0.6 * steps), int(0.8 * steps)]
