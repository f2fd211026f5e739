"""Search on the difference: what does a new model react to that its reference does not?

Every network has patterns that lift one of its classes, which is why a free search on one model
finds nothing of use. What a network does by nature its reference, the model that it was trained
from, does as well, and the difference of the two cancels it. What is left was learned in between.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_defense.model.batches import in_chunks
from fl_defense.model.spec import Pixels
from fl_defense.progress import counting
from fl_defense.search.effects import gain_over_mean
from fl_defense.search.patterns import (
    Additive,
    Displacements,
    Patches,
    Pattern,
    PatternFamily,
)
from fl_defense.surrogates.pool import class_balance
from fl_defense.validation import require, require_at_least, require_declared


class Contrast:
    """A new model and its reference, on scenes that both have answered.

    Args:
        new: the model that is searched; neither it nor the reference takes gradients.
        reference: what it is compared with.
        inputs: normalised scenes (N, C, H, W).
        pixels: normalisation of the inputs.
        of_reference: the reference's logits for the scenes (N, K), if they are known.
    """

    def __init__(
        self,
        new: nn.Module,
        reference: nn.Module,
        inputs: Tensor,
        pixels: Pixels,
        *,
        of_reference: Tensor | None = None,
    ) -> None:
        self._new, self._reference, self._pixels = new, reference, pixels
        self.images = pixels.denormalize(inputs).clamp(0, 1)
        if of_reference is None:
            of_reference = in_chunks(reference, inputs)
        self._plain = in_chunks(new, inputs) - of_reference
        self._weights = class_balance(of_reference)

    @property
    def is_finite(self) -> bool:
        """Whether all answers to the scenes are finite."""
        return bool(self._plain.isfinite().all())

    def sample(self, num: int) -> tuple[Tensor, Tensor]:
        """Return images (num, C, H, W) in [0, 1] and, for `gains`, the difference on them."""
        chosen = torch.multinomial(self._weights, num, replacement=True)
        return self.images[chosen], self._plain[chosen]

    def gains(self, changed: Tensor, plain: Tensor) -> Tensor:
        """Return how far each class gains from a change in the new model more than before.

        Args:
            changed: images (B, C, H, W) in [0, 1].
            plain: the difference of the two models' logits on the images unchanged, (B, K).

        Returns:
            Gains over the mean of the classes, in logits, (B, K).
        """
        inputs = self._pixels.normalize(changed)
        return gain_over_mean(self._new(inputs) - self._reference(inputs) - plain)


@dataclass(frozen=True, kw_only=True)
class DifferenceSearch:
    """Searches the strongest patterns of several families.

    Frank-Wolfe over each family's box, whose best corner along a gradient is its sign. Codes start
    at random, so that no class is preferred; which class a code lifts most decides where it goes.

    Raises:
        ValueError: if a setting is out of its range.
    """

    families: tuple[PatternFamily, ...] = (
        Patches(),
        Patches(share=1 / 5, is_refinement=True, bar=0.8),
        Additive(),
        Displacements(),
    )
    """What is searched, in this order; refinements look where those before have found something."""
    first_steps: int = 6
    """Steps of every start, before the strongest are looked at."""
    steps: int = 10
    """Further steps of the strongest starts."""
    num_strongest: int = 4
    """Starts that take the further steps, of each family: first the best of each class."""
    images_per_start: int = 4
    """Scenes that a start is tried on in each step."""
    least_step: float = 0.2
    """Frank-Wolfe's step is 2 / (t + 2), and never shorter than this; in (0, 1]."""
    images_at_once: int = 384
    """Images in one pass through the networks; bounds the memory."""

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(
            self, first_steps=1, steps=0, num_strongest=1, images_per_start=1, images_at_once=1
        )
        require(len(self.families) > 0, "families", "at least one", self.families)
        require(0 < self.least_step <= 1, "least_step", "in (0, 1]", self.least_step)

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise ValueError if a family does not fit images of (C, H, W)."""
        for family in self.families:
            family.check(shape)

    def find(self, contrast: Contrast) -> list[Pattern]:
        """Return the strongest starts of every family, those of a family in falling order.

        Nothing, if an answer to the scenes is not finite.
        """
        if not contrast.is_finite:
            return []
        channels, height, width = contrast.images.shape[1:]
        shape = (channels, height, width)
        found: list[Pattern] = []
        for family in self.families:
            places = [pattern.place(shape) for pattern in found]
            starts = family.starts_near(shape, places)
            starts = starts.to(contrast.images.device)
            codes = torch.rand(len(starts), *family.code_shape(shape), device=starts.device) * 2 - 1
            found += self._of_family(family, starts, codes, contrast)
        return found

    def _of_family(
        self, family: PatternFamily, starts: Tensor, codes: Tensor, contrast: Contrast
    ) -> list[Pattern]:
        if len(starts) == 0:
            return []
        gains = torch.zeros(len(starts), device=codes.device)
        labels = torch.zeros(len(starts), dtype=torch.long, device=codes.device)
        few = min(len(starts), self.num_strongest)
        total = self.first_steps * self._passes(len(starts)) + self.steps * self._passes(few)
        with counting(f"searching for {family.name}", total) as one_more:
            for step in range(self.first_steps + self.steps):
                if step == self.first_steps:
                    kept = _strongest(gains, labels, self.num_strongest)
                    starts, codes = starts[kept], codes[kept]
                gradient, labels, gains = self._gradient(family, starts, codes, contrast, one_more)
                codes = torch.lerp(codes, gradient.sign(), self._step(step))
        order = _strongest(gains, labels, self.num_strongest).tolist()
        return [
            Pattern(family=family, start=int(starts[k]), code=codes[k], label=int(labels[k]))
            for k in order
        ]

    def _step(self, step: int) -> float:
        return max(2 / (step + 2), self.least_step)

    @property
    def _starts_at_once(self) -> int:
        return max(1, self.images_at_once // self.images_per_start)

    def _passes(self, num: int) -> int:
        """Return in how many passes so many starts take a step."""
        return -(-num // self._starts_at_once)

    def _gradient(
        self,
        family: PatternFamily,
        starts: Tensor,
        codes: Tensor,
        contrast: Contrast,
        one_more: Callable[[], None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gains' gradient, (R, ...), the classes (R,), and their mean gains (R,)."""
        per_start = self.images_per_start
        at_once = self._starts_at_once
        gradients, classes, means = [], [], []
        for first in range(0, len(starts), at_once):
            some = slice(first, first + at_once)
            leaf = codes[some].clone().requires_grad_(True)
            images, plain = contrast.sample(len(leaf) * per_start)
            each = leaf.repeat_interleave(per_start, 0)
            changed = family.apply(images, each, starts[some].repeat_interleave(per_start))
            gains = contrast.gains(changed, plain).view(len(leaf), per_start, -1).mean(1)
            label = gains.argmax(1)
            gain = gains.gather(1, label[:, None])[:, 0]
            (gradient,) = torch.autograd.grad(gain.sum(), leaf)
            gradients.append(gradient)
            classes.append(label)
            means.append(gain.detach())
            one_more()
        return torch.cat(gradients), torch.cat(classes), torch.cat(means)


def _strongest(gains: Tensor, labels: Tensor, num: int) -> Tensor:
    """Return the indices of `num` gains in falling order: the best of each class before others.

    What a round teaches honestly lifts some class, too, often further than a trigger that few have
    learned: the classes must not be lost.
    """
    order = gains.argsort(descending=True, stable=True).tolist()
    seen: set[int] = set()
    first: list[int] = []
    again: list[int] = []
    for index in order:
        label = int(labels[index])
        (again if label in seen else first).append(index)
        seen.add(label)
    return torch.tensor([*first, *again][:num], device=gains.device)
