"""DeepSanitizer: repair the classifier after an inspection layer on dummy features.

Idea: a model is cut in two. The extractor before the cut stays as it is; for the head after it,
dummy features are made without data, and the head is fine-tuned on them until what a trigger does
to features no longer moves its answer.

Reference: Wu, Yao, Fu, Shi, Wu, Ji, "DeepSanitizer" (submitted to IEEE TDSC, 2025), built on
FreeEagle (USENIX Security 2023). Public of it is only this outline: an inspection layer splits the
model, a gradient-based algorithm makes dummy feature representations, the classifier part is
fine-tuned on them. THE REST IS OUR RECONSTRUCTION, and results of this file are not the paper's.

Our reconstruction:
  1. Dummies start from features of procedural scenes, those most familiar to the model's BatchNorm
     statistics, and are dealt out evenly to the classes: those that the suspect is not half sure of
     are moved by a few gradient steps towards their class, under channel dropout, tied to where
     they started. They deliberately do not converge: fully optimised dummies are unlike real
     features, and those of the target class carry the trigger.
  2. The patch that moves the answer most is searched for each place of a scene (`PatchSearch`, as
     in DHBE), first in the suspect, then in what is repaired. Fine-tuning on dummies without it
     removes nothing: their loss is already small.
  3. The head must answer dummies as before (fidelity), and patched scenes like plain ones
     (consistency; what one class gains beyond what any patch may). Its BatchNorm statistics are
     frozen.
  4. If noise, warps or waves over the whole image lift a class of the suspect far enough
     (`search.distortions`), that class must not gain on scenes that are changed so.
  5. With a reference, an earlier model that is trusted, only what the head does more than it, when
     the same patch is on the same scene, counts.
What each part is worth is in docs/notes/levers.md.

Limit: what the extractor has already fused with the features of the target class cannot be told
apart after it; see docs/notes/levers.md.

Needs: image shape and pixel normalisation. No images. Cost: `details["forward_images"]` counts
images passed forward, where the extractor and the head count half each; backward passes come on
top.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from fl_defense.facts import Facts
from fl_defense.log import logger
from fl_defense.model.batches import in_chunks
from fl_defense.model.counting import CountingModel
from fl_defense.model.precision import Execution, Precision
from fl_defense.model.spec import ModelSpec
from fl_defense.model.split import default_cut
from fl_defense.model.training import (
    frozen_copy,
    require_gradients,
    require_image_gradient,
    trainable,
)
from fl_defense.progress import counted
from fl_defense.sanitizers._distortions import ActiveDistortions
from fl_defense.sanitizers._generators import one_cycle
from fl_defense.sanitizers._losses import RepairLosses
from fl_defense.sanitizers._placed_patches import PlacedPatches, tolerated_gain
from fl_defense.sanitizers._reference import Comparison, compared_with
from fl_defense.sanitizers.base import Sanitized, Sanitizer
from fl_defense.sanitizers.deep_sanitizer.dummies import Balancing, Dummies
from fl_defense.sanitizers.deep_sanitizer.head_repair import HeadRepair
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

SHARE_OF_A_PART = 0.5
"""What an image counts that passes through the extractor or the head alone."""


@dataclass(frozen=True, kw_only=True)
class DeepSanitizer(Sanitizer):
    """Head repair on dummy features (our reconstruction); the defaults are those of `per_round`.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> from fl_defense import apply_sanitizer
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> quick = DeepSanitizer(steps=2, batch_size=8, num_dummies=24, patch_size=3)
        >>> suspect = spec.build()
        >>> repaired = apply_sanitizer(quick, suspect, spec)
        >>> bool((repaired.model[0].weight == suspect[0].weight).all())  # before the cut
        True
    """

    steps: int = 200
    """Steps of the head; the search for patches takes as many."""
    batch_size: int = 96
    """Dummies per step."""
    patched_scenes: int = 32
    """Patched scenes per step."""
    searched_scenes: int = 48
    """Scenes on which patches are searched in each step."""
    num_dummies: int = 2000
    """Dummy features, evenly over the classes."""
    candidates_per_image: int = 4
    """Scenes made for each one kept; those most familiar to the model's BatchNorm are kept."""
    balancing_steps: int = 5
    """Gradient steps that move unsure dummies to their class; 0: scenes' features as they are."""
    balancing_lr: float = 0.06
    """Adam's learning rate for the dummies."""
    anchor_weight: float = 0.02
    """Weight of a dummy's squared distance from where it started, against its cross-entropy."""
    sure_from: float = 0.5
    """Posterior of its class, in (0, 1), from which a dummy is sure, and is not moved."""
    channel_dropout: float = 0.2
    """Share of feature channels hidden at random in each balancing step, in [0, 1)."""
    head_lr: float = 1.5e-3
    """Peak learning rate of the head's Adam, one cycle with 10 % warm-up."""
    head_betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of that Adam's mean gradient and mean square, each in [0, 1)."""
    head_batchnorm: Literal["frozen", "train"] = "frozen"
    """Keep the head's BatchNorm statistics, or update them on dummies."""
    consistency_weight: float = 0.3
    """Weight of ignoring the patch against answering like the suspect."""
    tolerated_gain: float = 1.0
    """Gain that no patch is blamed for, in standard deviations of the logits of a scene."""
    tolerated_over_reference: float = 0.15
    """The same where a reference is given, beyond the reference's own gain."""
    tolerated_from_classes: int = 10
    """Classes from which on these gains hold as they are; with fewer, K, they are multiplied by
    sqrt(K / this): of few logits each lies far out in their own deviations."""
    distorted_share: float = 0.33
    """Scenes that each kind of whole-image trigger found in the suspect (noise, warps, waves)
    changes in a step, as a share of `batch_size`, in [0, 1]; 0: none is looked for."""
    distortion_weight: float = 0.5
    """Weight of ignoring these changes against answering like the suspect."""
    patch_size: int | None = 5
    """Side of the searched patch in pixels, 3 to the whole image; null: 3 to 5 by the image's size.
    """
    warm_start: bool = False
    """Carry the patches to the next round."""
    precision: Precision = "float32"
    """Of extractor and heads. bfloat16 takes 70 to 115 % of the time on a CPU with AVX-512 BF16,
    is made for GPUs since Ampere, not measured there, and is slower on hardware without it."""
    places: PatchSearchSettings = PatchSearchSettings()
    """How a patch is searched for each place."""
    distortions: DistortionSettings = DistortionSettings()
    """How whole-image triggers are searched."""

    uses_reference: ClassVar[bool] = True
    facts: ClassVar[Facts] = Facts(
        needs="a network that can be cut in two",
        changes="weights after the cut (`repair.inspect-at`)",
        cost="some 90,000 passes of an image, backward ones among them",
        paper="our reconstruction of DeepSanitizer's outline (TDSC submission 2025)",
        limits="what the extractor has fused with the target's features stays",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, steps=1, batch_size=2, num_dummies=2, candidates_per_image=1)
        require_at_least(self, balancing_steps=0, patched_scenes=1, searched_scenes=1)
        require_at_least(self, tolerated_gain=0, tolerated_over_reference=0)
        require_at_least(self, tolerated_from_classes=1)
        require_at_least(self, anchor_weight=0, consistency_weight=0, distortion_weight=0)
        require_share(self, "distorted_share")
        require_positive(self, "balancing_lr", "head_lr")
        dropout, size = self.channel_dropout, self.patch_size
        require(0 <= dropout < 1, "channel_dropout", "in [0, 1)", dropout)
        require(0 < self.sure_from < 1, "sure_from", "in (0, 1)", self.sure_from)
        in_range = all(0 <= beta < 1 for beta in self.head_betas)
        require(in_range, "head_betas", "in [0, 1)", self.head_betas)
        require(size is None or size >= 3, "patch_size", "at least 3 or null", size)

    @classmethod
    def per_round(cls) -> Self:
        """Return the short run for a repair after every aggregation."""
        return cls()

    @classmethod
    def quick(cls) -> Self:
        """Return the run for small networks, whose rounds are short: half the work.

        Larger networks lose accuracy by it. In so few steps Adam must forget sooner what the head
        was like.
        """
        return cls(steps=100, num_dummies=1000, head_betas=(0.85, 0.95))

    @classmethod
    def thorough(cls) -> Self:
        """Return the long run for a model that is released."""
        return cls(steps=500, num_dummies=4000)

    @classmethod
    def presets(cls) -> dict[str, Self]:
        """Return the presets by the name that a scenario gives."""
        return {
            "per-round": cls.per_round(),
            "quick": cls.quick(),
            "thorough": cls.thorough(),
        }

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse images that are too small, and networks that gradients do not pass or change.

        Where one linear layer stands behind the cut, the log warns that little can be repaired.

        Raises:
            ValueError: if the patch is larger than the image, the model cannot be cut, no gradient
                comes back to images, or no parameter of the head may be trained.
        """
        searched_side(self.patch_size, spec.input_shape)
        features, head = spec.split(model)
        trainable(head)
        if sum(each.ndim > 1 for each in head.parameters()) < 2:
            logger.warning(
                "DeepSanitizer: one linear layer stands behind the cut after %r; what the layers "
                "before make of a trigger stays: cut earlier (inspect_at), or take DHBE",
                spec.inspect_at or default_cut(model),
            )
        # Not of the model: what is cut has lost the model's own torch.no_grad().
        require_image_gradient(nn.Sequential(features, head), spec.input_shape)

    def make_inputs(self, spec: ModelSpec, suspect: nn.Module) -> Tensor:
        """Return normalised scenes (N, C, H, W), the most familiar of many to the suspect."""
        return draw_familiar(Scenes(), suspect, spec, self.num_dummies, self.candidates_per_image)

    def make_dummies(self, teacher: nn.Module, features: Tensor, logits: Tensor) -> Dummies:
        """Return dummies of all classes, made of features of scenes (N, ...).

        Args:
            teacher: the suspect's head.
            features: of scenes.
            logits: the teacher's for them, (N, K).
        """
        balancing = Balancing(
            steps=self.balancing_steps,
            lr=self.balancing_lr,
            anchor_weight=self.anchor_weight,
            channel_dropout=self.channel_dropout,
            sure_from=self.sure_from,
        )
        return balancing.dummies(teacher, features, logits)

    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: State | None = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        """Fine-tune the head of a copy of `suspect` against patches.

        Raises:
            ValueError: if the patch is larger than the image, or the model cannot be cut.
        """
        student = copy.deepcopy(suspect)
        _, head = spec.split(student)
        repair = self.head_repair(frozen_copy(suspect), head, spec, state, reference)
        head.train(self.head_batchnorm == "train")
        parameters = trainable(head)
        optimizer = torch.optim.Adam(parameters, self.head_lr, self.head_betas)
        schedule = one_cycle(optimizer, self.head_lr, self.steps)

        losses = RepairLosses.zero()
        for _ in counted("repairing the classifier", range(self.steps)):
            losses = repair.losses()
            optimizer.zero_grad(set_to_none=True)
            losses.total(
                consistency_weight=self.consistency_weight,
                distortion_weight=self.distortion_weight,
            ).backward()
            optimizer.step()
            schedule.step()
            require_gradients(parameters, False)
            repair.patches.step(repair.student)
            require_gradients(parameters, True)

        details = losses.details() | repair.details()
        carried = repair.state(warm_start=self.warm_start)
        return Sanitized(model=student.eval(), state=carried, details=details)

    def head_repair(
        self,
        suspect: nn.Module,
        head: nn.Module,
        spec: ModelSpec,
        state: State | None = None,
        reference: nn.Module | None = None,
    ) -> HeadRepair:
        """Make scenes and dummies for a student's head, and search the suspect, which is frozen."""
        device = next(head.parameters()).device
        execution = Execution(self.precision, suspect, spec.input_shape)
        parts = (*(part.eval() for part in spec.split(suspect)), head)
        extractor, teacher, student = (
            CountingModel(execution.of(part), SHARE_OF_A_PART) for part in parts
        )
        comparison = compared_with(reference, execution, spec.pixels)
        whole = nn.Sequential(extractor, teacher)
        inputs = self.make_inputs(spec, whole)  # (N, C, H, W)
        features = in_chunks(extractor, inputs)  # (N, ...)
        pool = ScenePool(inputs, in_chunks(teacher, features))
        dummies = self.make_dummies(teacher, features, pool.logits)
        dummy_logits = in_chunks(teacher, dummies.features)  # (N, K)
        patches = self._patches(pool, comparison, spec, device)
        if self.warm_start and state is not None:
            patches.load(state["patches"])
        patches.begin(whole)
        deviations = self.tolerated_gain if reference is None else self.tolerated_over_reference
        tolerated = tolerated_gain(
            deviations, comparison.spread(pool), spec.num_classes, self.tolerated_from_classes
        )
        distortions = ActiveDistortions(self.distortions, spec, self.distorted_share, device)
        distortions.search(whole, pool, comparison, state)
        return HeadRepair(
            extractor=extractor,
            teacher=teacher,
            head=student,
            pool=pool,
            features=features,
            dummies=dummies,
            dummy_logits=dummy_logits,
            patches=patches,
            distortions=distortions,
            comparison=comparison,
            pixels=spec.pixels,
            batch_size=self.batch_size,
            num_patched=self.patched_scenes,
            tolerated=tolerated,
        )

    def _patches(
        self, pool: ScenePool, comparison: Comparison, spec: ModelSpec, device: torch.device
    ) -> PlacedPatches:
        side = searched_side(self.patch_size, spec.input_shape)
        search = PatchSearch(self.places, spec.input_shape, side, device)
        return PlacedPatches(search, pool, spec.pixels, comparison, batch_size=self.searched_scenes)
