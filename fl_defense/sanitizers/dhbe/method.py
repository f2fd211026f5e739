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
  5. Of a patch's effect on the logits only that counts by which it raises one class more than
     patches raise classes in any network. A model that no patch moves further has nothing to
     unlearn, and is left nearly as it was.
  6. The patch game does not find triggers over the whole image. Three kinds of them, noise, warps
     and waves, are searched before it (`search.distortions`). If the teacher obeys one of them, it
     is unlearned, too: scenes that are changed so must not raise the class that it serves. In the
     round after, less of it is enough to be unlearned again.
  7. The search for patches starts afresh in each round; `warm_start` carries them on.
What each deviation is worth is in docs/methods.md.

Needs: image shape and pixel normalisation. No images. Cost, in forward passes: 3 of a batch per
student step, 1 more for generated images, 3 per patched or distorted image; 2 of a batch for each
search, 4 per generator step; before that some 11,000 images for noise, warps and waves.
`details["forward_images"]` counts them. What the searches found before the repair is told, too: by
how many standard deviations of the logits the strongest patch, noise, warp and wave raise a class
(`patch_raise`, `noise_raise`, `warp_raise`, `wave_raise`).
"""

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from fl_defense.facts import Facts
from fl_defense.model.batches import in_chunks
from fl_defense.model.precision import Execution, Precision
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import (
    frozen_copy,
    require_gradients,
    require_image_gradient,
    trainable,
)
from fl_defense.sanitizers._distortions import ObeyedDistortions
from fl_defense.sanitizers._generators import (
    ImageGenerator,
    PatchGenerator,
    Player,
    add_patches,
    one_cycle,
)
from fl_defense.sanitizers.base import Sanitized, Sanitizer
from fl_defense.search.effects import excess, raised, rise_of_served
from fl_defense.search.patches import PatchSearch, Trial, searched_side, trial_on
from fl_defense.state import State
from fl_defense.surrogates.familiarity import draw_familiar
from fl_defense.surrogates.pool import AnsweredScenes
from fl_defense.surrogates.scenes import Scenes
from fl_defense.validation import (
    require,
    require_at_least,
    require_declared,
    require_positive,
    require_share,
)

FORWARDS_PER_STUDENT_STEP = 3
"""Student 1, backward through its pass 2; in forward passes. Generated images: teacher 1."""
FORWARDS_PER_GENERATOR_STEP = 4
"""Forward and activation-only backward of two passes."""
FORWARDS_PER_CHANGED = 3
"""Patched or distorted: forward and backward of one pass of the student."""
FORWARDS_PER_SEARCH = 2
"""Forward and activation-only backward of one pass."""
CLASSES_MEASURED = 10
"""Fewest classes of the networks that the tolerated raise was set with."""


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
    generator_lr: float = 1e-2
    """Adam's learning rate for the image generator and the trigger generator, if there are any."""
    patch_size: int = 5
    """Side of the searched patch in pixels, 3 to the whole image."""
    patch_search: Literal["places", "generator"] = "places"
    """Search a patch for each place of the image, or the paper's generator of patches."""
    patched_share: float = 0.33
    """Share of a batch's images that are patched for the student, in (0, 1]."""
    consistency: Literal["excess", "raised", "absolute"] = "excess"
    """What counts of a patch's effect on the logits: by how much it raises one class beyond
    `tolerated_raise`, all that it raises, squared, or every change as in the paper."""
    tolerated_raise: float = 1.0
    """Raise that no patch is blamed for, in standard deviations of the logits of a scene; with
    K < 10 classes times sqrt(K / 10)."""
    consistency_weight: float = 0.2
    """Weight of ignoring the patch against answering like the teacher (lambda_d1)."""
    scene_share: float = 1.0
    """Share of procedural scenes in a batch, in [0, 1]; the image generator makes the rest."""
    num_scenes: int = 2000
    """Scenes to draw batches from, if any are used."""
    scenes_per_kept: int = 4
    """Scenes made for each one kept; those most familiar to the teacher's BatchNorm are kept."""
    distorted_share: float = 0.33
    """Share of a batch's scenes that each kind of whole-image trigger found in the teacher (noise,
    warps, waves) changes, in [0, 1]; 0: none is looked for."""
    distortion_weight: float = 1.0
    """Weight of ignoring these changes against answering like the teacher."""
    total_variation_weight: float = 1e-4
    """Weight of the image generator's smoothness (w2), for a batch of 256 3x32x32 images."""
    student_batchnorm: Literal["frozen", "train"] = "frozen"
    """Keep the student's BatchNorm statistics, or update them as the paper does."""
    patch_location: Literal["per-image", "shared"] = "per-image"
    """Of the generator: place the patch anew on each image, or once per batch as in the paper."""
    clip_pixels: bool = True
    """Clip images with patches of the generator to [0, 1]; the paper does not."""
    warm_start: bool = False
    """Carry the patches, or the generators and their optimisers, to the next round."""
    latent_size: int = 64
    """Length of the generators' random input."""
    generator_width: int = 16
    """Filters of the generators' last convolution (ngf)."""
    precision: Precision = "float32"
    """Of teacher and student. bfloat16 takes 70 to 115 % of the time on a CPU with AVX-512 BF16,
    is made for GPUs since Ampere, not measured there, and is slower on hardware without it."""

    facts: ClassVar[Facts] = Facts(
        changes="all weights",
        cost="110,000 to 135,000 forward passes",
        paper="Yan et al., AsiaCCS 2023, arXiv 2306.08009; shortened by us",
        limits="patches larger than `patch-size`; whole-image triggers of other families",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, iterations=1, student_steps=1, batch_size=2, num_scenes=1)
        require_at_least(self, scenes_per_kept=1, patch_size=3, latent_size=1, generator_width=1)
        require_at_least(self, weight_decay=0, tolerated_raise=0, consistency_weight=0)
        require_at_least(self, distortion_weight=0, total_variation_weight=0)
        require_positive(self, "student_lr", "generator_lr")
        require_share(self, "scene_share", "distorted_share")
        if self.patch_search == "places":
            shared = self.patch_location == "shared"
            require(not shared, "patch_location", "per-image with patch_search places", "shared")
            clipped = self.clip_pixels
            require(clipped, "clip_pixels", "true with patch_search places", clipped)
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
            generator_lr=1e-3,
            patch_search="generator",
            patched_share=1.0,
            consistency="absolute",
            consistency_weight=0.1,
            scene_share=0.0,
            distorted_share=0.0,
            student_batchnorm="train",
            patch_location="shared",
            clip_pixels=False,
            latent_size=256,
            generator_width=64,
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
        self, suspect: nn.Module, spec: ModelSpec, state: State | None = None
    ) -> Sanitized:
        """Distil `suspect` into a copy of itself that ignores patches.

        Raises:
            ValueError: if the patch is larger than the image.
        """
        self.check(suspect, spec)
        teacher = frozen_copy(suspect)
        student = copy.deepcopy(suspect).train(self.student_batchnorm == "train")
        game = _Game(self, spec, teacher, student, state)
        parameters = trainable(student)
        descent, schedule = self._optimizer(parameters)

        fidelity = consistency = distortion = torch.zeros(())
        for _ in range(self.iterations):
            require_gradients(parameters, True)
            for _ in range(self.student_steps):
                fidelity, consistency, distortion = game.student_losses()
                descent.zero_grad(set_to_none=True)
                loss = fidelity + self.consistency_weight * consistency
                (loss + self.distortion_weight * distortion).backward()
                descent.step()
                schedule.step()
            require_gradients(parameters, False)
            game.search()

        require_gradients(parameters, True)
        losses = {"fidelity": fidelity.item(), "consistency": consistency.item()}
        if game.distortions.obeyed:
            losses["distortion"] = distortion.item()
        losses |= {f"{name}_raise": found for name, found in game.raises.items()}
        losses["forward_images"] = float(self._forward_images(game))
        return Sanitized(model=student.eval(), state=game.state(), details=losses)

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

    def _forward_images(self, game: "_Game") -> int:
        """Number of images passed forward through the network; backward passes count likewise."""
        generated = self.batch_size - round(self.scene_share * self.batch_size)
        scenes = self.batch_size - generated
        changed = game.num_patched + game.distortions.num_changed(scenes)
        before = game.distortions.num_searched
        if scenes > 0:
            before += self.num_scenes * (self.scenes_per_kept + 1)
        per_step = FORWARDS_PER_STUDENT_STEP * self.batch_size + generated
        per_iteration = self.student_steps * (per_step + FORWARDS_PER_CHANGED * changed)
        if game.patch_search is None:
            per_iteration += FORWARDS_PER_GENERATOR_STEP * self.batch_size
        else:
            per_iteration += FORWARDS_PER_SEARCH * self.batch_size
            before += FORWARDS_PER_SEARCH * game.patch_search.num_first_images
        if generated > 0:
            per_iteration += FORWARDS_PER_GENERATOR_STEP * self.batch_size
        return before + self.iterations * per_iteration


class _Game:
    """Teacher, student, their adversaries, and the losses (paper, eq. of S-, G- and P-step).

    Distances are taken on raw logits, means over batch and classes.
    """

    def __init__(
        self,
        settings: DHBE,
        spec: ModelSpec,
        teacher: nn.Module,
        student: nn.Module,
        state: State | None,
    ) -> None:
        self.settings, self.pixels, self.num_classes = settings, spec.pixels, spec.num_classes
        computation = Execution(settings.precision, teacher, spec.input_shape)
        teacher, student = computation.of(teacher), computation.of(student)
        self.teacher, self.student = teacher, student
        self.device = next(student.parameters()).device
        latent, width, lr = settings.latent_size, settings.generator_width, settings.generator_lr
        falls = _milestones(settings.iterations) if settings.lr_schedule == "step" else []
        self.num_patched = max(1, round(settings.patched_share * settings.batch_size))
        self.patches: Player[PatchGenerator] | None = None
        if settings.patch_search == "generator":
            patches = PatchGenerator(latent, width, spec.input_shape[0], settings.patch_size)
            self.patches = Player(patches, lr, self.device, falls)
        self.images: Player[ImageGenerator] | None = None
        if settings.scene_share < 1:
            images = ImageGenerator(latent, width, spec.input_shape)
            self.images = Player(images, lr, self.device, falls)
        self._scenes: AnsweredScenes | None = None
        self._spread = 1.0
        if settings.scene_share > 0:
            familiar = draw_familiar(
                Scenes(), teacher, spec, settings.num_scenes, settings.scenes_per_kept
            )
            self._scenes = AnsweredScenes(familiar, in_chunks(teacher, familiar))
            self._spread = self._scenes.spread()
        # Of few logits each lies far out in their own deviations, and a flip takes fewer of these.
        few = math.sqrt(min(1.0, spec.num_classes / CLASSES_MEASURED))
        self._tolerated = settings.tolerated_raise * self._spread * few
        self.raises: dict[str, float] = {}
        """By how much what was found raises a class of the teacher."""
        self.patch_search: PatchSearch | None = None
        if settings.patch_search == "places":
            self.patch_search = PatchSearch(spec.input_shape, settings.patch_size, self.device)
        if settings.warm_start and state is not None:
            self._load(state)
        if self.patch_search is not None:
            self.patch_search.search_everywhere(self._trial(teacher))
            self.raises["patch"] = self.patch_search.strongest() / self._spread
        share = settings.distorted_share
        self.distortions = ObeyedDistortions(teacher, self._scenes, spec, share, state)
        self.raises |= self.distortions.raises

    def student_losses(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return how far the student is from the teacher, and from ignoring patch and distortions.

        The target under both is the student's own answer without them, held fixed.
        """
        with torch.no_grad():
            inputs, answers = self._draw()
            num_scenes = len(answers)
            chosen = self._choose_patched(len(inputs))
            patched = self._patch(inputs[chosen])
            distorted, undistorted, served = self.distortions.change(inputs[:num_scenes])
            if num_scenes < len(inputs):
                answers = torch.cat([answers, self.teacher(inputs[num_scenes:])])
        logits = self.student(inputs)
        held = logits.detach()
        changed, unchanged = torch.cat([patched, distorted]), held[torch.cat([chosen, undistorted])]
        moved = self.student(changed) - unchanged
        by_patch, by_distortion = moved[: len(patched)], moved[len(patched) :]
        fidelity = (logits - answers).abs().mean()
        return fidelity, self._effect(by_patch), rise_of_served(by_distortion, served)

    def search(self) -> None:
        """Let every adversary take one step against the student, whose weights are frozen."""
        training = self.student.training
        self.student.eval()  # searching leaves BatchNorm's statistics alone
        if self.patch_search is not None:
            tried = self.patch_search.choose(self.settings.batch_size)
            self.patch_search.search(self._trial(self.student), tried)
        self.student.train(training)
        if self.images is not None:
            self.images.step(self.image_loss())
        if self.patches is not None:
            self.patches.step(self.patch_loss())

    def image_loss(self) -> Tensor:
        """Return the image generator's: smooth images on which student and teacher differ."""
        assert self.images is not None
        inputs = self.images.network.sample(self.settings.batch_size)
        disagreement = (self.student(inputs) - self.teacher(inputs)).abs().mean()
        # The norms grow with the root of the batch's number of values.
        scale = math.sqrt(256 * 3 * 32 * 32 / inputs.numel())
        weight = self.settings.total_variation_weight * scale
        loss: Tensor = weight * total_variation(inputs) - disagreement
        return loss

    def patch_loss(self) -> Tensor:
        """Return the trigger generator's: patches that move the student's answer."""
        with torch.no_grad():
            inputs, _ = self._draw()
            logits = self.student(inputs)
        return -self._effect(self.student(self._patch(inputs)) - logits)

    def state(self) -> State | None:
        """Return what is obeyed, and patches or generators, if they are to be carried on."""
        players = self._players() if self.settings.warm_start else {}
        carried = {name: player.state() for name, player in players.items()}
        return {**carried, **self.distortions.state()} or None

    def _load(self, state: State) -> None:
        for name, player in self._players().items():
            player.load(state[name])

    def _players(self) -> dict[str, Player[Any] | PatchSearch]:
        named: dict[str, Player[Any] | PatchSearch | None]
        named = {"images": self.images, "patches": self.patches or self.patch_search}
        return {name: player for name, player in named.items() if player is not None}

    def _effect(self, moved: Tensor) -> Tensor:
        """Measure by how much patches moved the logits (B, K)."""
        if self.settings.consistency == "excess":
            return excess(moved, self._tolerated)
        return raised(moved) if self.settings.consistency == "raised" else moved.abs().mean()

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Return a batch of normalised inputs, scenes first, and the teacher's answers to these."""
        settings = self.settings
        num_scenes = round(settings.scene_share * settings.batch_size)
        inputs, answers = [], torch.empty(0, self.num_classes, device=self.device)
        if num_scenes > 0:
            assert self._scenes is not None
            scenes, answers = self._scenes.sample(num_scenes)
            inputs.append(scenes)
        if self.images is not None:
            with torch.no_grad():
                inputs.append(self.images.network.sample(settings.batch_size - num_scenes))
        return torch.cat(inputs), answers

    def _trial(self, network: nn.Module) -> Trial:
        assert self._scenes is not None
        return trial_on(network, self._scenes, self.pixels)

    def _choose_patched(self, num: int) -> Tensor:
        """Return which of `num` inputs are patched."""
        if self.num_patched == num:
            return torch.arange(num, device=self.device)
        return torch.randperm(num, device=self.device)[: self.num_patched]

    def _patch(self, inputs: Tensor) -> Tensor:
        """Return patched inputs."""
        if self.patch_search is not None:
            images = self.pixels.denormalize(inputs)
            return self.pixels.normalize(self.patch_search.add_to(images))
        assert self.patches is not None
        shared, clip = self.settings.patch_location == "shared", self.settings.clip_pixels
        patches = self.patches.network.sample(len(inputs))
        return add_patches(inputs, patches, self.pixels, shared=shared, clip=clip)


def total_variation(inputs: Tensor) -> Tensor:
    """Return the sum of the four Frobenius norms of neighbour differences over a batch (TV2)."""
    right = inputs[..., :, 1:] - inputs[..., :, :-1]
    below = inputs[..., 1:, :] - inputs[..., :-1, :]
    falling = inputs[..., 1:, 1:] - inputs[..., :-1, :-1]
    rising = inputs[..., 1:, :-1] - inputs[..., :-1, 1:]
    total: Tensor = right.norm() + below.norm() + falling.norm() + rising.norm()
    return total


def _milestones(steps: int) -> list[int]:
    """Return after which of `steps` the paper's learning rates fall."""
    return [int(0.6 * steps), int(0.8 * steps)]
