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
     anywhere else. Patched pixels are clipped to [0, 1].
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
What each deviation is worth is in docs/methods.md.

Needs: image shape and pixel normalisation. No images. Cost: `details["forward_images"]` counts the
images passed forward through teacher and student; backward passes come on top. What the searches
found before the repair is recorded, too: by how many standard deviations of the logits the
strongest patch, noise, warp and wave lift a class (`patch_gain`, `noise_gain`, `warp_gain`,
`wave_gain`).
"""

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

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
from fl_defense.sanitizers._distortions import ActiveDistortions
from fl_defense.sanitizers._generators import (
    ImageGenerator,
    PatchGenerator,
    TrainedGenerator,
    one_cycle,
)
from fl_defense.sanitizers._reference import compared_with
from fl_defense.sanitizers.base import Sanitized, Sanitizer
from fl_defense.sanitizers.dhbe.adversaries import GeneratedPatches, PatchAdversary, PlacedPatches
from fl_defense.sanitizers.dhbe.images import DistillationImages, GeneratedImages
from fl_defense.search.distortions import DistortionSettings
from fl_defense.search.effects import excess_gain, gain_of_suspected, squared_gain
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

CLASSES_OF_TOLERANCE = 10
"""Fewest classes of the networks that the tolerated gain was set with."""


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """The paper's generators, used where images or patches are generated."""

    lr: float = 1e-2
    """Adam's learning rate for the image generator and the patch generator."""
    latent_size: int = 64
    """Length of the generators' random input."""
    width: int = 16
    """Filters of the generators' last convolution (ngf)."""
    total_variation_weight: float = 1e-4
    """Weight of the image generator's smoothness (w2), for a batch of 256 3x32x32 images."""
    patch_location: Literal["per-image", "shared"] = "per-image"
    """Place a generated patch anew on each image, or once per batch as in the paper."""
    clip_pixels: bool = True
    """Clip images with generated patches to [0, 1]; the paper does not."""

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, latent_size=1, width=1, total_variation_weight=0)
        require_positive(self, "lr")

    def patches(
        self, spec: ModelSpec, side: int, device: torch.device, milestones: list[int]
    ) -> TrainedGenerator[PatchGenerator]:
        """Return an untrained generator of patches of so many pixels a side."""
        network = PatchGenerator(self.latent_size, self.width, spec.input_shape[0], side)
        return TrainedGenerator(network, self.lr, device, milestones)

    def images(
        self, spec: ModelSpec, device: torch.device, milestones: list[int]
    ) -> TrainedGenerator[ImageGenerator]:
        """Return an untrained generator of network inputs."""
        network = ImageGenerator(self.latent_size, self.width, spec.input_shape)
        return TrainedGenerator(network, self.lr, device, milestones)


@dataclass(frozen=True, kw_only=True)
class DHBE(Sanitizer):
    """Restricted adversarial distillation; the defaults are those of `per_round`.

    Raises:
        ValueError: if a value is out of its range.
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
    consistency: Literal["excess", "squared", "absolute"] = "excess"
    """What counts of a patch's effect on the logits: the largest gain beyond `tolerated_gain`, all
    gains, squared, or every change as in the paper."""
    tolerated_gain: float = 1.0
    """Gain that no patch is blamed for, in standard deviations of the logits of a scene; with
    K < 10 classes times sqrt(K / 10)."""
    tolerated_over_reference: float = 0.15
    """The same where a reference is given, beyond the reference's own gain."""
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
        loop = _Distillation(self, spec, frozen_copy(suspect), student, reference)
        loop.begin(state)
        descent, schedule = self._optimizer(parameters)

        losses = _Losses.zero()
        for _ in range(self.iterations):
            require_gradients(parameters, True)
            for _ in range(self.student_steps):
                losses = loop.student_losses()
                descent.zero_grad(set_to_none=True)
                losses.total(self).backward()
                descent.step()
                schedule.step()
            require_gradients(parameters, False)
            for adversary in loop.adversaries:
                adversary.step(loop.student)

        require_gradients(parameters, True)
        details = losses.details() | loop.details()
        return Sanitized(model=student.eval(), state=loop.state(), details=details)

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


class _Losses(NamedTuple):
    """The student's losses, scalars."""

    fidelity: Tensor
    """How far its logits are from the teacher's."""
    consistency: Tensor
    """How far it is from ignoring patches."""
    distortion: Tensor
    """How far it is from ignoring active distortions."""

    @classmethod
    def zero(cls) -> Self:
        """Return the losses of a perfect student."""
        return cls(*torch.zeros(3))

    def total(self, settings: DHBE) -> Tensor:
        """Return what the student descends."""
        loss = self.fidelity + settings.consistency_weight * self.consistency
        return loss + settings.distortion_weight * self.distortion

    def details(self) -> dict[str, float]:
        """Return them for the record."""
        return {name: loss.item() for name, loss in self._asdict().items()}


class _Distillation:
    """Teacher, student, their adversaries, and the student's losses (paper, eq. of the S-step).

    Distances are taken on raw logits, means over batch and classes.
    """

    def __init__(
        self,
        settings: DHBE,
        spec: ModelSpec,
        teacher: nn.Module,
        student: nn.Module,
        reference: nn.Module | None = None,
    ) -> None:
        self.settings, self.spec = settings, spec
        execution = Execution(settings.precision, teacher, spec.input_shape)
        self.teacher = CountingModel(execution.of(teacher))
        self.student = CountingModel(execution.of(student))
        self.comparison = compared_with(reference, execution, spec.pixels)
        self.device = next(student.parameters()).device
        self.images, self.patches = (
            self._generated_patches()
            if settings.patch_search == "generator"
            else self._placed_patches()
        )
        self.tolerated = self._tolerated(settings.tolerated_gain)
        """Gain that no patch is blamed for, in logits."""
        if reference is not None:
            self.tolerated = self._tolerated(settings.tolerated_over_reference)
        self.distortions = ActiveDistortions(
            settings.distortions, spec, settings.distorted_share, self.device
        )

    @property
    def adversaries(self) -> list[PatchAdversary | GeneratedImages]:
        """All that search against the student, in their order."""
        generated = [] if self.images.generated is None else [self.images.generated]
        if isinstance(self.patches, PlacedPatches):
            return [self.patches, *generated]
        return [*generated, self.patches]

    def begin(self, state: State | None) -> None:
        """Search the teacher, from where the round before has left off if that was carried."""
        if self.settings.warm_start and state is not None:
            self._load(state)
        self.patches.begin(self.teacher)
        if self.images.pool is not None:
            self.distortions.search(self.teacher, self.images.pool, self.comparison, state)

    def student_losses(self) -> _Losses:
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
        return _Losses(
            fidelity=(logits - teacher_logits).abs().mean(),
            consistency=self.effect(by_patch),
            distortion=gain_of_suspected(by_distortion, suspected),
        )

    def effect(self, change: Tensor) -> Tensor:
        """Measure by how much patches changed the logits (B, K): a scalar."""
        if self.settings.consistency == "excess":
            return excess_gain(change, self.tolerated)
        if self.settings.consistency == "squared":
            return squared_gain(change)
        return change.abs().mean()

    def details(self) -> dict[str, float]:
        """Return what was found in the teacher, and the images that it took in all."""
        passed = self.teacher.forward_images + self.student.forward_images
        passed += self.comparison.forward_images
        found = self.patches.details() | self.distortions.details()
        return found | {"forward_images": passed}

    def state(self) -> State | None:
        """Return what is active, and patches or generators, if they are to be carried on."""
        carried: dict[str, Any] = {}
        if self.settings.warm_start:
            carried = {name: each.state() for name, each in self._carried().items()}
        return {**carried, **self.distortions.state()} or None

    def _load(self, state: State) -> None:
        for name, adversary in self._carried().items():
            adversary.load(state[name])

    def _carried(self) -> dict[str, PatchAdversary | GeneratedImages]:
        generated = self.images.generated
        images = {} if generated is None else {"images": generated}
        return {**images, "patches": self.patches}

    def _placed_patches(self) -> tuple[DistillationImages, PatchAdversary]:
        settings, shape = self.settings, self.spec.input_shape
        images = self._make_images()
        assert images.pool is not None
        search = PatchSearch(settings.places, shape, settings.patch_size, self.device)
        pixels, size = self.spec.pixels, settings.batch_size
        return images, PlacedPatches(search, images.pool, pixels, self.comparison, batch_size=size)

    def _generated_patches(self) -> tuple[DistillationImages, PatchAdversary]:
        settings, generators = self.settings, self.settings.generators
        generator = generators.patches(
            self.spec, settings.patch_size, self.device, settings.milestones()
        )
        images = self._make_images()
        return images, GeneratedPatches(
            generator,
            images,
            self.spec.pixels,
            self.effect,
            shared=generators.patch_location == "shared",
            clip=generators.clip_pixels,
        )

    def _make_images(self) -> DistillationImages:
        """Return batches of scenes, of generated images, or of both."""
        settings, generators = self.settings, self.settings.generators
        num_scenes = round(settings.scene_share * settings.batch_size)
        generated = pool = None
        if settings.scene_share < 1:
            generated = GeneratedImages(
                generators.images(self.spec, self.device, settings.milestones()),
                self.teacher,
                num=settings.batch_size - num_scenes,
                batch_size=settings.batch_size,
                total_variation_weight=generators.total_variation_weight,
            )
        if settings.scene_share > 0:
            inputs = draw_familiar(
                Scenes(),
                self.teacher,
                self.spec,
                settings.num_scenes,
                settings.candidates_per_image,
            )
            pool = ScenePool(inputs, in_chunks(self.teacher, inputs))
        return DistillationImages(pool, num_scenes, generated, self.teacher)

    def _tolerated(self, deviations: float) -> float:
        """Return a tolerated gain in logits."""
        # Of few logits each lies far out in their own deviations, and a flip takes fewer of these.
        few = math.sqrt(min(1.0, self.spec.num_classes / CLASSES_OF_TOLERANCE))
        pool = self.images.pool
        return deviations * (1.0 if pool is None else self.comparison.spread(pool)) * few

    def _choose_patched(self, num: int) -> Tensor:
        """Return which of `num` inputs are patched, indices."""
        num_patched = max(1, round(self.settings.patched_share * num))
        if num_patched == num:
            return torch.arange(num, device=self.device)
        return torch.randperm(num, device=self.device)[:num_patched]


def _milestones(steps: int) -> list[int]:
    """Return after which of `steps` the paper's learning rates fall."""
    return [int(0.6 * steps), int(0.8 * steps)]
