"""The images that DHBE distils on: scenes, and those of a generator (paper, G-step)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fl_defense.sanitizers._generators import ImageGenerator, TrainedGenerator
from fl_defense.surrogates.pool import ScenePool

PAPER_VALUES = 256 * 3 * 32 * 32
"""Pixel values of the batches that the paper's smoothness weight was set for."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Images to distil on, scenes first."""

    inputs: Tensor
    """Normalised, (B, C, H, W)."""
    scenes: Tensor
    """Indices of the scenes in their pool, (S,); S is at most B."""


class GeneratedImages:
    """Images of a generator: smooth ones on which student and teacher differ.

    Args:
        generator: makes them, and learns.
        teacher: frozen.
        num: images of a batch that the generator makes in the student's steps.
        batch_size: images in each of its own steps.
        total_variation_weight: of smoothness, for a batch of 256 3x32x32 images.
    """

    def __init__(
        self,
        generator: TrainedGenerator[ImageGenerator],
        teacher: nn.Module,
        *,
        num: int,
        batch_size: int,
        total_variation_weight: float,
    ) -> None:
        self.generator, self.teacher = generator, teacher
        self.num, self.batch_size = num, batch_size
        self.total_variation_weight = total_variation_weight

    @torch.no_grad()
    def draw(self) -> Tensor:
        """Return normalised inputs (num, C, H, W)."""
        return self.generator.sample(self.num)

    def step(self, student: nn.Module) -> None:
        """Take one step against a student, whose weights are frozen."""
        self.generator.descend(self.loss(student))

    def loss(self, student: nn.Module) -> Tensor:
        """Return what the generator descends: smoothness less disagreement."""
        inputs = self.generator.sample(self.batch_size)
        disagreement = (student(inputs) - self.teacher(inputs)).abs().mean()
        # The norms grow with the root of the batch's number of values.
        weight = self.total_variation_weight * math.sqrt(PAPER_VALUES / inputs.numel())
        loss: Tensor = weight * total_variation(inputs) - disagreement
        return loss

    def state(self) -> dict[str, Any]:
        """Return what `load` takes."""
        return self.generator.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier state."""
        self.generator.load(state)


class DistillationImages:
    """Batches of scenes, which the teacher has answered already, and of generated images.

    Args:
        pool: scenes with the teacher's logits.
        num_scenes: of a batch.
        generated: makes the rest of a batch; None: there is no rest.
        teacher: answers generated images.
    """

    def __init__(
        self,
        pool: ScenePool | None,
        num_scenes: int,
        generated: GeneratedImages | None,
        teacher: nn.Module,
    ) -> None:
        self.pool, self.num_scenes = pool, num_scenes
        self.generated, self.teacher = generated, teacher

    def draw(self) -> Batch:
        """Draw a batch."""
        inputs: list[Tensor] = []
        scenes = torch.zeros(0, dtype=torch.long)
        if self.pool is not None and self.num_scenes > 0:
            scenes = self.pool.draw(self.num_scenes)
            inputs.append(self.pool.inputs[scenes])
        if self.generated is not None:
            inputs.append(self.generated.draw())
        return Batch(torch.cat(inputs), scenes)

    @torch.no_grad()
    def teacher_logits(self, batch: Batch) -> Tensor:
        """Return the teacher's logits, (B, K); scenes were answered once and for all."""
        logits: list[Tensor] = []
        if self.pool is not None:
            logits.append(self.pool.logits[batch.scenes])
        if self.generated is not None:
            logits.append(self.teacher(batch.inputs[len(batch.scenes) :]))
        return torch.cat(logits)


def total_variation(inputs: Tensor) -> Tensor:
    """Return the sum of the four Frobenius norms of neighbour differences over a batch (TV2)."""
    right = inputs[..., :, 1:] - inputs[..., :, :-1]
    below = inputs[..., 1:, :] - inputs[..., :-1, :]
    falling = inputs[..., 1:, 1:] - inputs[..., :-1, :-1]
    rising = inputs[..., 1:, :-1] - inputs[..., :-1, 1:]
    total: Tensor = right.norm() + below.norm() + falling.norm() + rising.norm()
    return total
