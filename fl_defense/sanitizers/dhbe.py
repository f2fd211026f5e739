"""DHBE: data-free holistic backdoor erasing by restricted adversarial distillation.

Idea: a student starts as a copy of the suspect (the teacher) and must go on answering like it on
images that nobody's data are in. A second network searches for the small patch that moves the
student's answer most, and the student learns to ignore it. Whatever acts like a trigger is unlearned
without being named.

Reference: Yan et al., "DHBE: Data-free Holistic Backdoor Erasing in Deep Neural Networks via
Restricted Adversarial Distillation", AsiaCCS 2023, arXiv 2306.08009. `DHBE.faithful()` has the
settings of the authors' code: 15,000 iterations, hours on a CPU.

Deviations of `DHBE.per_round()`, which is made for a repair after every aggregation:
  1. Images are procedural textures instead of a generator's: a generator needs thousands of steps
     before its images are worth distilling on.
  2. Textures are drawn so that the teacher's classes come equally often; they crowd into a few
     classes, and distilling on those ruins the others.
  3. The student's BatchNorm statistics are frozen: a short run on textures would replace the
     statistics of real images by those of textures.
  4. Patched pixels are clipped to [0, 1], and each image of a batch has its patch elsewhere.
  5. One-cycle learning rate with a low peak; the trigger generator and its optimiser are carried
     from round to round.
What each deviation is worth is in docs/methods.md.

Needs: image shape and pixel normalisation. No images. Cost of `per_round`: about 6 forward passes of
a batch per student step; `details["forward_images"]` counts them.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from fl_defense.model_spec import ModelSpec
from fl_defense.sanitizers._generators import ImageGenerator, PatchGenerator
from fl_defense.sanitizers.base import Sanitized, State, frozen_copy
from fl_defense.surrogates import textures

FORWARDS_PER_STUDENT_STEP = 7
"""Teacher 1, student 2, backward through the student's two passes 4; in forward passes."""
FORWARDS_PER_GENERATOR_STEP = 4
"""Forward and activation-only backward of two passes."""


@dataclass(frozen=True, kw_only=True)
class DHBE:
    """Hyper-parameters, the same for every attack; defaults are those of `per_round`.

    Raises:
        ValueError: if a value is out of its range.
    """

    iterations: int = 80
    """Outer iterations; each has `student_steps` student steps and one step per generator."""
    student_steps: int = 2
    """Student steps per outer iteration."""
    batch_size: int = 96
    """Images per step."""
    student_lr: float = 0.004
    """Peak learning rate of the student's SGD (momentum 0.9)."""
    lr_schedule: Literal["one-cycle", "step"] = "one-cycle"
    """One-cycle with 10 % warm-up, or the paper's factor 0.1 at 60 % and 80 %."""
    weight_decay: float = 5e-4
    """Of the student's SGD."""
    generator_lr: float = 1e-3
    """Adam's learning rate for the image generator and the trigger generator."""
    patch_size: int | None = 5
    """Side of the trigger generator's patch in pixels, at least 3; null: the whole image."""
    consistency_weight: float = 1.0
    """Weight of ignoring the patch against answering like the teacher (lambda_d1)."""
    texture_share: float = 1.0
    """Share of textures in a batch, in [0, 1]; the image generator makes the rest."""
    num_textures: int = 2000
    """Textures to draw from, if any are used."""
    total_variation_weight: float = 1e-4
    """Weight of the image generator's smoothness (w2), for a batch of 256 3x32x32 images."""
    student_batchnorm: Literal["frozen", "train"] = "frozen"
    """Keep the student's BatchNorm statistics, or update them as the paper does."""
    patch_location: Literal["per-image", "shared"] = "per-image"
    """Place the patch anew on each image, or once per batch as the paper does."""
    clip_pixels: bool = True
    """Clip patched images to [0, 1]; the paper does not."""
    latent_size: int = 64
    """Length of the generators' random input."""
    generator_width: int = 16
    """Filters of the generators' last convolution (ngf)."""

    changes_models: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("iterations", "student_steps", "num_textures", "latent_size"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        _require(
            self.generator_width >= 1, "generator_width must be at least 1", self.generator_width
        )
        _require(self.batch_size >= 2, "batch_size must be at least 2", self.batch_size)
        _require(self.student_lr > 0, "student_lr must be positive", self.student_lr)
        _require(self.generator_lr > 0, "generator_lr must be positive", self.generator_lr)
        _require(
            0 <= self.texture_share <= 1, "texture_share must be in [0, 1]", self.texture_share
        )
        _require(
            self.patch_size is None or self.patch_size >= 3,
            "patch_size must be at least 3 or null",
            self.patch_size,
        )
        for name in ("weight_decay", "consistency_weight", "total_variation_weight"):
            _require(getattr(self, name) >= 0, f"{name} must be at least 0", getattr(self, name))

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
            student_lr=0.1,
            lr_schedule="step",
            consistency_weight=0.1,
            texture_share=0.0,
            student_batchnorm="train",
            patch_location="shared",
            clip_pixels=False,
            latent_size=256,
            generator_width=64,
        )

    @classmethod
    def presets(cls) -> dict[str, Self]:
        """Return the presets by the name that a scenario gives."""
        return {"per-round": cls.per_round(), "faithful": cls.faithful()}

    def sanitize(
        self, suspect: nn.Module, spec: ModelSpec, state: State | None = None
    ) -> Sanitized:
        """Distil `suspect` into a copy of itself that ignores patches.

        Raises:
            ValueError: if the patch is larger than the image.
        """
        teacher = frozen_copy(suspect)
        student = copy.deepcopy(suspect).train(self.student_batchnorm == "train")
        device = next(student.parameters()).device
        players = _Players(self, spec, device)
        if state is not None:
            players.load(state)
        images = _Images(self, spec, teacher, players.image_generator)
        descent = torch.optim.SGD(
            student.parameters(), self.student_lr, momentum=0.9, weight_decay=self.weight_decay
        )
        schedule = self._schedule(descent)

        fidelity = consistency = torch.zeros((), device=device)
        for _ in range(self.iterations):
            student.requires_grad_(True)
            for _ in range(self.student_steps):
                loss, fidelity, consistency = self._student_loss(student, teacher, images, players)
                descent.zero_grad(set_to_none=True)
                loss.backward()
                descent.step()
                schedule.step()
            student.requires_grad_(False)
            if players.image_generator is not None:
                players.step_images(self._image_loss(student, teacher, images))
            players.step_patches(self._patch_loss(student, images, players))

        student.requires_grad_(True)
        return Sanitized(
            model=student.eval(),
            state=players.state(),
            details={
                "fidelity": fidelity.item(),
                "consistency": consistency.item(),
                "forward_images": float(self._forward_images()),
            },
        )

    def _student_loss(
        self, student: nn.Module, teacher: nn.Module, images: "_Images", players: "_Players"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answer like the teacher, and ignore the patch: L1 on logits, means over batch and classes.

        The consistency target is the student's own answer without the patch, held fixed.
        """
        with torch.no_grad():
            inputs = images.draw(self.batch_size)
            patched = players.patch(inputs)
            teacher_logits = teacher(inputs)
        logits = student(inputs)
        fidelity = (logits - teacher_logits).abs().mean()
        consistency = (student(patched) - logits.detach()).abs().mean()
        loss = fidelity + self.consistency_weight * consistency
        return loss, fidelity.detach(), consistency.detach()

    def _image_loss(self, student: nn.Module, teacher: nn.Module, images: "_Images") -> Tensor:
        """Invent smooth images on which student and teacher differ."""
        inputs = images.generate(self.batch_size)
        disagreement = (student(inputs) - teacher(inputs)).abs().mean()
        # The norm below grows with the root of the batch's number of values.
        weight = self.total_variation_weight * math.sqrt(256 * 3 * 32 * 32 / inputs.numel())
        return weight * _total_variation(inputs) - disagreement

    def _patch_loss(self, student: nn.Module, images: "_Images", players: "_Players") -> Tensor:
        """Search for the patch that moves the student's answer most."""
        with torch.no_grad():
            inputs = images.draw(self.batch_size)
            logits = student(inputs)
        return -(student(players.patch(inputs)) - logits).abs().mean()

    def _schedule(self, descent: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        steps = self.iterations * self.student_steps
        if self.lr_schedule == "one-cycle":
            return torch.optim.lr_scheduler.OneCycleLR(
                descent, self.student_lr, total_steps=steps + 1, pct_start=0.1, cycle_momentum=False
            )
        milestones = [int(0.6 * steps), int(0.8 * steps)]
        return torch.optim.lr_scheduler.MultiStepLR(descent, milestones, gamma=0.1)

    def _forward_images(self) -> int:
        """Number of images passed forward through the network, backward passes counted likewise."""
        generators = 2 if self.texture_share < 1 else 1
        return (
            self.iterations
            * self.batch_size
            * (
                self.student_steps * FORWARDS_PER_STUDENT_STEP
                + generators * FORWARDS_PER_GENERATOR_STEP
            )
        )


class _Images:
    """Where inputs come from: textures, the image generator, or both."""

    def __init__(
        self, settings: DHBE, spec: ModelSpec, teacher: nn.Module, generator: ImageGenerator | None
    ) -> None:
        self._generator = generator
        self._share = settings.texture_share
        if self._share > 0:
            device = next(teacher.parameters()).device
            pool = spec.pixels.normalize(textures(settings.num_textures, spec.input_shape))
            self._pool = pool.to(device)
            self._weights = _class_balance(teacher, self._pool)

    def draw(self, num: int) -> Tensor:
        """Return `num` normalised inputs without gradient."""
        num_textures = round(self._share * num)
        parts = []
        if num_textures > 0:
            chosen = torch.multinomial(self._weights, num_textures, replacement=True)
            parts.append(self._pool[chosen])
        if num_textures < num:
            with torch.no_grad():
                parts.append(self.generate(num - num_textures))
        return torch.cat(parts)

    def generate(self, num: int) -> Tensor:
        """Return `num` of the generator's inputs, with gradient."""
        assert self._generator is not None
        latents = _latents(self._generator, num)
        inputs: Tensor = self._generator(latents)
        return inputs


class _Players:
    """The networks that play against the student, and their optimisers."""

    def __init__(self, settings: DHBE, spec: ModelSpec, device: torch.device) -> None:
        channels, height, width = spec.input_shape
        self._shape = (height, width)
        self._pixels = spec.pixels
        self._clip = settings.clip_pixels
        self._shared_location = settings.patch_location == "shared"
        self.side = settings.patch_size or min(height, width)
        if self.side > min(height, width):
            raise ValueError(
                f"patch_size must be at most the image's {min(height, width)}, got {self.side}"
            )
        latent, filters = settings.latent_size, settings.generator_width
        self.patch_generator = PatchGenerator(latent, filters, channels, self.side).to(device)
        self._patch_ascent = torch.optim.Adam(
            self.patch_generator.parameters(), settings.generator_lr
        )
        self.image_generator: ImageGenerator | None = None
        if settings.texture_share < 1:
            self.image_generator = ImageGenerator(latent, filters, spec.input_shape).to(device)
            self._image_ascent = torch.optim.Adam(
                self.image_generator.parameters(), settings.generator_lr
            )

    def patch(self, inputs: Tensor) -> Tensor:
        """Add patches to normalised inputs: in [0, 1] pixel space, each at a random place."""
        patches = self.patch_generator(_latents(self.patch_generator, len(inputs)))
        placed = _place(patches, self._shape, shared=self._shared_location)
        images = self._pixels.denormalize(inputs) + placed
        return self._pixels.normalize(images.clamp(0, 1) if self._clip else images)

    def step_patches(self, loss: Tensor) -> None:
        """Take one step of the trigger generator."""
        _step(self._patch_ascent, loss)

    def step_images(self, loss: Tensor) -> None:
        """Take one step of the image generator."""
        _step(self._image_ascent, loss)

    def state(self) -> dict[str, Any]:
        """Return networks and optimisers, to be carried to the next round."""
        return {name: copy.deepcopy(part.state_dict()) for name, part in self._parts()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of an earlier round."""
        for name, part in self._parts():
            # A copy: optimisers go on writing into the tensors that they are given.
            part.load_state_dict(copy.deepcopy(state[name]))

    def _parts(self) -> Iterator[tuple[str, Any]]:
        patches = {"patches": self.patch_generator, "patch_ascent": self._patch_ascent}
        if self.image_generator is None:
            return iter(patches.items())
        images = {"images": self.image_generator, "image_ascent": self._image_ascent}
        return chain(patches.items(), images.items())


def _place(patches: Tensor, shape: tuple[int, int], *, shared: bool) -> Tensor:
    """Put each patch (B, C, p, p) on a zero image (B, C, H, W) at a uniformly random place."""
    num, _, side, _ = patches.shape
    height, width = shape
    draws = 1 if shared else num
    tops = torch.randint(height - side + 1, (draws,), device=patches.device).expand(num)
    lefts = torch.randint(width - side + 1, (draws,), device=patches.device).expand(num)
    rows = torch.arange(height, device=patches.device) - tops[:, None]
    columns = torch.arange(width, device=patches.device) - lefts[:, None]
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[
        :, None
    ]
    index = torch.arange(num, device=patches.device)[:, None, None]
    values = patches.permute(0, 2, 3, 1)[
        index, rows.clamp(0, side - 1)[:, :, None], columns.clamp(0, side - 1)[:, None, :]
    ]
    return values.permute(0, 3, 1, 2) * inside[:, None]


def _total_variation(inputs: Tensor) -> Tensor:
    """Sum of the four Frobenius norms of neighbour differences, over the whole batch (TV2)."""
    right = inputs[..., :, 1:] - inputs[..., :, :-1]
    below = inputs[..., 1:, :] - inputs[..., :-1, :]
    falling = inputs[..., 1:, 1:] - inputs[..., :-1, :-1]
    rising = inputs[..., 1:, :-1] - inputs[..., :-1, 1:]
    return right.norm() + below.norm() + falling.norm() + rising.norm()


@torch.no_grad()
def _class_balance(teacher: nn.Module, inputs: Tensor) -> Tensor:
    """Return sampling weights (N,) that make the teacher's classes equally frequent."""
    classes = torch.cat([teacher(batch) for batch in inputs.split(500)]).argmax(dim=1)
    return 1.0 / classes.bincount()[classes].float()


def _latents(generator: ImageGenerator | PatchGenerator, num: int) -> Tensor:
    device = next(generator.parameters()).device
    return torch.randn(num, generator.latent_size, device=device)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _require(condition: bool, message: str, got: object) -> None:
    if not condition:
        raise ValueError(f"{message}, got {got}")
