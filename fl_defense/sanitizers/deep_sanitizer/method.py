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
  2. A patch generator (DHBE's) searches the small patch that, pasted into scenes, moves the head's
     answer most. The patch passes through the extractor; the difference it makes to a scene's
     features is added to the dummies of all classes. Fine-tuning on dummies without it removes
     nothing: their loss is already small.
  3. The head must answer dummies as before (fidelity), and perturbed dummies like plain ones
     (consistency; what raises a class counts, squared). Its BatchNorm statistics are frozen.
  4. If the suspect obeys noise, warps or waves over the whole image (`search.distortions`), the
     head must not raise the class that they serve on scenes that are changed so.
What each part is worth is in docs/methods.md.

Limit: what the extractor has already fused with the features of the target class cannot be told
apart after it; see docs/methods.md.

Needs: image shape and pixel normalisation. No images. Cost: `details["forward_images"]` counts
passes through the whole network, where the extractor and the head count half each.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from fl_defense.facts import Facts
from fl_defense.model.batches import in_chunks
from fl_defense.model.precision import Execution, Precision
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import frozen_copy, require_image_gradient, trainable
from fl_defense.sanitizers._distortions import ObeyedDistortions
from fl_defense.sanitizers._generators import (
    PatchGenerator,
    Player,
    add_patches,
    one_cycle,
)
from fl_defense.sanitizers.base import Sanitized, Sanitizer
from fl_defense.sanitizers.deep_sanitizer.dummies import Balancing, Dummies
from fl_defense.search.effects import raised, rise_of_served
from fl_defense.search.patches import searched_side
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

HALVES_PER_DUMMY = 3
"""Extractor once, suspect's head before and after balancing."""
HALVES_PER_BALANCING = 2
"""Suspect's head forward and back."""
HALVES_PER_STEP = 8
"""Of a dummy: head forward and back, for activations and weights, twice; of its patched scene:
extractor forward and back."""
HALVES_PER_CHANGED = 6
"""Extractor and head forward, with the change and without; back for activations and weights."""


@dataclass(frozen=True, kw_only=True)
class DeepSanitizer(Sanitizer):
    """Head repair on dummy features (our reconstruction); the defaults are those of `per_round`.

    Raises:
        ValueError: if a value is out of its range.
    """

    steps: int = 180
    """Steps of the head; the patch generator takes as many."""
    batch_size: int = 48
    """Dummies per step, each with a patched scene of its own."""
    num_dummies: int = 2000
    """Dummy features, evenly over the classes."""
    scenes_per_kept: int = 4
    """Scenes made for each one kept; those most familiar to the model's BatchNorm are kept."""
    balancing_steps: int = 5
    """Gradient steps that move unsure dummies to their class; 0: scenes' features as they are."""
    balancing_lr: float = 0.06
    """Adam's learning rate for the dummies."""
    anchor_weight: float = 0.02
    """Weight of a dummy's squared distance from where it started, against its cross-entropy."""
    channel_dropout: float = 0.2
    """Share of feature channels hidden at random in each balancing step, in [0, 1)."""
    head_lr: float = 3e-3
    """Peak learning rate of the head's Adam, one cycle with 10 % warm-up."""
    head_betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of that Adam's mean gradient and mean square, each in [0, 1)."""
    head_batchnorm: Literal["frozen", "train"] = "frozen"
    """Keep the head's BatchNorm statistics, or update them on dummies."""
    consistency_weight: float = 1.0
    """Weight of ignoring the patch against answering like the suspect."""
    distorted_share: float = 0.33
    """Scenes that each kind of whole-image trigger found in the suspect (noise, warps, waves)
    changes in a step, as a share of `batch_size`, in [0, 1]; 0: none is looked for."""
    distortion_weight: float = 0.5
    """Weight of ignoring these changes against answering like the suspect."""
    patch_size: int | None = None
    """Side of the searched patch in pixels, 3 to the whole image; null: 3 to 5 by the image's size.
    """
    patch_location: Literal["per-image", "shared"] = "per-image"
    """Place the patch anew on each scene, or once per batch."""
    generator_lr: float = 1.5e-2
    """Adam's learning rate for the patch generator."""
    latent_size: int = 64
    """Length of the patch generator's random input."""
    generator_width: int = 16
    """Filters of the patch generator's last convolution."""
    warm_start: bool = False
    """Carry the patch generator and its optimiser to the next round."""
    precision: Precision = "float32"
    """Of extractor and heads. bfloat16 takes 70 to 115 % of the time on a CPU with AVX-512 BF16,
    is made for GPUs since Ampere, not measured there, and is slower on hardware without it."""

    facts: ClassVar[Facts] = Facts(
        needs="a network that can be cut in two",
        changes="weights after the cut (`repair.inspect-at`)",
        cost="60,000 to 71,000 forward passes",
        paper="our reconstruction of DeepSanitizer's outline (TDSC submission 2025)",
        limits="what the extractor has fused with the target's features stays",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, steps=1, batch_size=2, num_dummies=2, scenes_per_kept=1)
        require_at_least(self, balancing_steps=0, latent_size=1, generator_width=1)
        require_at_least(self, anchor_weight=0, consistency_weight=0, distortion_weight=0)
        require_share(self, "distorted_share")
        require_positive(self, "balancing_lr", "head_lr", "generator_lr")
        dropout, size = self.channel_dropout, self.patch_size
        require(0 <= dropout < 1, "channel_dropout", "in [0, 1)", dropout)
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
        return cls(steps=90, num_dummies=1000, head_betas=(0.85, 0.95))

    @classmethod
    def thorough(cls) -> Self:
        """Return the long run for a model that is released."""
        return cls(steps=480, num_dummies=4000)

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

        Raises:
            ValueError: if the patch is larger than the image, the model cannot be cut, no gradient
                comes back to images, or no parameter of the head may be trained.
        """
        searched_side(self.patch_size, spec.input_shape)
        features, head = spec.split(model)
        trainable(head)
        # Not of the model: what is cut has lost the model's own torch.no_grad().
        require_image_gradient(nn.Sequential(features, head), spec.input_shape)

    def make_inputs(self, spec: ModelSpec, suspect: nn.Module) -> Tensor:
        """Return normalised scenes (N, C, H, W), the most familiar of many to the suspect."""
        return draw_familiar(Scenes(), suspect, spec, self.num_dummies, self.scenes_per_kept)

    def make_dummies(self, teacher: nn.Module, features: Tensor, answers: Tensor) -> Dummies:
        """Return dummies of all classes, made of features of scenes (N, ...).

        Args:
            teacher: the suspect's head.
            features: of scenes.
            answers: the teacher's to them, logits (N, K).
        """
        balancing = Balancing(
            steps=self.balancing_steps,
            lr=self.balancing_lr,
            anchor_weight=self.anchor_weight,
            channel_dropout=self.channel_dropout,
        )
        return balancing.dummies(teacher, features, answers)

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: State | None = None
    ) -> Sanitized:
        """Fine-tune the head of a copy of `suspect` against patches.

        Raises:
            ValueError: if the patch is larger than the image, or the model cannot be cut.
        """
        frozen = frozen_copy(suspect)
        computation = Execution(self.precision, frozen, spec.input_shape)
        features, teacher = (computation.of(part.eval()) for part in spec.split(frozen))
        student = copy.deepcopy(suspect)
        _, head = spec.split(student)
        game = _Game(self, spec, features, teacher, computation.of(head), state)
        head.train(self.head_batchnorm == "train")
        parameters = trainable(head)
        optimizer = torch.optim.Adam(parameters, self.head_lr, self.head_betas)
        schedule = one_cycle(optimizer, self.head_lr, self.steps)

        fidelity = consistency = distortion = torch.zeros(())
        for _ in range(self.steps):
            fidelity, consistency = game.patch_losses()
            distortion = game.distortion_loss()
            optimizer.zero_grad(set_to_none=True)
            loss = fidelity + self.consistency_weight * consistency
            # Its backward pass is the head's as well.
            game.patches.step(loss + self.distortion_weight * distortion)
            optimizer.step()
            schedule.step()

        details = {"fidelity": fidelity.item(), "consistency": consistency.item()}
        if game.distortions.obeyed:
            details["distortion"] = distortion.item()
        details |= {f"{name}_raise": found for name, found in game.distortions.raises.items()}
        details["least_class_share"] = game.least_class_share()
        details["forward_images"] = self._forward_images(game)
        return Sanitized(model=student.eval(), state=game.state(), details=details)

    def _forward_images(self, game: "_Game") -> float:
        """Number of images passed forward; a pass through one part, forward or back, is a half."""
        familiar = self.num_dummies * self.scenes_per_kept
        halves = self.num_dummies * HALVES_PER_DUMMY
        halves += game.dummies.num_steps * HALVES_PER_BALANCING
        halves += self.steps * self.batch_size * HALVES_PER_STEP
        changed = game.distortions.num_changed(self.batch_size)
        halves += self.steps * changed * HALVES_PER_CHANGED
        return familiar + game.distortions.num_searched + halves / 2


class _Game:
    """Dummies, patches, and what they do to the head that is repaired.

    `features` and `teacher` are the suspect's two halves; `head` is the student's second one.
    """

    def __init__(
        self,
        settings: DeepSanitizer,
        spec: ModelSpec,
        features: nn.Module,
        teacher: nn.Module,
        head: nn.Module,
        state: State | None,
    ) -> None:
        self.settings, self.pixels = settings, spec.pixels
        self.features, self.head = features, head
        suspect = nn.Sequential(features, teacher)
        self.device = next(head.parameters()).device
        channels = spec.input_shape[0]
        side = searched_side(settings.patch_size, spec.input_shape)
        generator = PatchGenerator(settings.latent_size, settings.generator_width, channels, side)
        self.patches = Player(generator, settings.generator_lr, self.device)
        if settings.warm_start and state is not None:
            self.patches.load(state["patches"])
        self.inputs = settings.make_inputs(spec, suspect)
        self.clean = in_chunks(self.features, self.inputs)
        self.floor = self.clean.min()
        self.scenes = AnsweredScenes(self.inputs, in_chunks(teacher, self.clean))
        self.dummies = settings.make_dummies(teacher, self.clean, self.scenes.answers)
        self.answers = in_chunks(teacher, self.dummies.features)
        share = settings.distorted_share
        self.distortions = ObeyedDistortions(suspect, self.scenes, spec, share, state)

    def patch_losses(self) -> tuple[Tensor, Tensor]:
        """Return how far the head is from the suspect's, and from ignoring patches.

        One pass serves both players: the gradient of the second loss is turned round on its way to
        the generator, which moves the answers that the head holds still.
        """
        chosen = self._draw(self.dummies.features, self.settings.batch_size)
        dummies = self.dummies.features[chosen]
        perturbation = self._perturbation()
        perturbation.register_hook(torch.neg)
        # In one pass: small batches of a head take almost as long as large ones.
        both = self.head(torch.cat([dummies, self._perturbed(dummies, perturbation)]))
        logits, perturbed = both.chunk(2)
        moved = perturbed - logits.detach()
        return (logits - self.answers[chosen]).abs().mean(), raised(moved)

    def distortion_loss(self) -> Tensor:
        """Return how far the head is from ignoring the whole-image changes that are obeyed.

        They are tried on the scenes themselves, whose features they change altogether: such a
        difference means nothing when it is added to another image's features.
        """
        if self.distortions.num_changed(self.settings.batch_size) == 0:
            return torch.zeros((), device=self.device)
        with torch.no_grad():
            inputs, _ = self.scenes.sample(self.settings.batch_size)
            changed, of, served = self.distortions.change(inputs)
            plain, distorted = self.features(inputs[of]), self.features(changed)
            held = self.head(plain)
        return rise_of_served(self.head(distorted) - held, served)

    def least_class_share(self) -> float:
        """Return the smallest share of a class's dummies that the suspect puts into it."""
        classes = self.dummies.classes
        right = (self.answers.argmax(1) == classes).float()
        return min(right[classes == label].mean().item() for label in classes.unique())

    def state(self) -> State | None:
        """Return what is obeyed, and the generator of patches, if it is to be carried on."""
        carried = {"patches": self.patches.state()} if self.settings.warm_start else {}
        return {**carried, **self.distortions.state()} or None

    def _perturbation(self) -> Tensor:
        """Return what patches do to the features of scenes."""
        chosen = self._draw(self.inputs, self.settings.batch_size)
        patches = self.patches.network.sample(len(chosen))
        shared = self.settings.patch_location == "shared"
        inputs = add_patches(self.inputs[chosen], patches, self.pixels, shared=shared)
        moved: Tensor = self.features(inputs)
        return moved - self.clean[chosen]

    def _perturbed(self, dummies: Tensor, perturbation: Tensor) -> Tensor:
        return (dummies + perturbation).clamp(min=self.floor)

    def _draw(self, pool: Tensor, num: int) -> Tensor:
        return torch.randint(len(pool), (num,), device=self.device)
