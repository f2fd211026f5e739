"""Triggers over the whole image, searched without data: noise, warps and waves that a model obeys.

A free search over the whole image is of no use: every network has universal perturbations of small
amplitude towards every class, and none of those found resembles a trigger. Three narrow families
are tried instead, and of each not whether it moves the answers, but whether it moves them all to
one class. A clean network hardly does so: its answers to noise and warps scatter. Waves of some
frequencies raise a class of a clean network, too, but in every phase: pooling forgets the phase. A
backdoor remembers its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_defense.model.batches import CHUNK
from fl_defense.model.spec import Pixels
from fl_defense.search.effects import leads
from fl_defense.search.family import Family
from fl_defense.search.noise import Noise
from fl_defense.search.patches import VALUES_AT_ONCE
from fl_defense.search.warps import Warps
from fl_defense.search.waves import Waves
from fl_defense.surrogates.pool import AnsweredScenes

AGAIN = 0.6
"""Share of its bar from which a family is obeyed if it was in the round before, for that class."""
STRENGTHS = (0.5, 1.5)
"""Range of what is unlearned, in strengths of the search."""
IMAGES_PER_GROUP = 12
"""Changed scenes that each group of patterns is tried on, shared out among those that are alike."""
FINALISTS = 3
"""Strongest patterns of a family that are measured again."""
IMAGES_PER_FINALIST = 256
"""Other draws of scenes that they are measured on."""


@dataclass(frozen=True, eq=False)
class FoundDistortion:
    """A pattern that moves a model's answers to one class."""

    family: Family
    """What kind of pattern."""
    pattern: Tensor
    """Of those that were measured again, the one with the largest anomaly."""
    suspected_class: int
    """The class that it raises."""
    anomaly: float
    """By how much, in standard deviations of the logits; of a wave, beyond its phases' mean."""

    @property
    def is_obeyed(self) -> bool:
        """Whether no clean model is known to react so strongly."""
        return self.anomaly > self.family.bar

    def is_obeyed_again(self, earlier: Mapping[str, int]) -> bool:
        """Tell whether it is, or nearly is and was in the round before.

        From round to round of a federation the reaction to one trigger varies, about the bar, too.

        Args:
            earlier: the classes that obeyed families served in the round before, by family.
        """
        same = earlier.get(self.family.name) == self.suspected_class
        return self.is_obeyed or (same and self.anomaly > AGAIN * self.family.bar)

    def add_to(self, images: Tensor) -> Tensor:
        """Change each of images (B, C, H, W) in [0, 1] by a pattern of this kind of its own."""
        patterns = self.family.draw_like(self.pattern, len(images))
        low, high = STRENGTHS
        strengths = low + (high - low) * torch.rand(len(images), device=images.device)
        return self.family.add(images, patterns, strengths).clamp(0, 1)


class DistortionSearch:
    """Patterns of each family, to be tried on models of one image shape.

    Args:
        shape: channels, height, width of an image.
        device: where the images are.
    """

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        families: list[Family] = [kind(shape, device) for kind in (Noise, Warps, Waves)]
        # Tiny images have no waves that are told apart.
        self.families = [family for family in families if len(family.patterns) > 0]

    @property
    def num_images(self) -> int:
        """Images that `find` passes through the model."""
        groups = [family.patterns.shape[:2] for family in self.families]
        return sum(
            size * (num * _first_images(size) + min(FINALISTS, num) * IMAGES_PER_FINALIST)
            for num, size in groups
        )

    @torch.no_grad()
    def find(
        self, model: nn.Module, scenes: AnsweredScenes, pixels: Pixels
    ) -> list[FoundDistortion]:
        """Return of each family the pattern that raises one class of a model most.

        Nothing, if an answer to the scenes is not finite.

        Args:
            model: in eval mode.
            scenes: answered by it.
            pixels: normalisation of its inputs.
        """
        if not scenes.answers.isfinite().all():
            return []
        raises = _raises_on(model, scenes, pixels)
        return [_strongest(family, raises) for family in self.families]


Raises = Callable[[Family, Tensor, int], Tensor]
"""From patterns (G, M, ...) and a number of images to the mean raise of each class, (G, M, K)."""


def _raises_on(model: nn.Module, scenes: AnsweredScenes, pixels: Pixels) -> Raises:
    spread = scenes.spread()

    def raises(family: Family, patterns: Tensor, num_images: int) -> Tensor:
        inputs, answers = scenes.sample(num_images)
        images = pixels.denormalize(inputs).clamp(0, 1)
        at_once = min(CHUNK, VALUES_AT_ONCE // images[0].numel())
        means = []
        for some in patterns.flatten(0, 1).split(max(1, at_once // num_images)):
            each = some.repeat_interleave(num_images, 0)
            alike = images.repeat(len(some), 1, 1, 1)
            changed = family.add(alike, each, torch.ones(len(each), device=images.device))
            moved = model(pixels.normalize(changed.clamp(0, 1))) - answers.repeat(len(some), 1)
            means.append(leads(moved).view(len(some), num_images, -1).mean(1) / spread)
        found = torch.cat(means).view(*patterns.shape[:2], -1)
        # What all of a group raise alike is no pattern's own.
        return found - found.mean(1, keepdim=True) if patterns.shape[1] > 1 else found

    return raises


def _strongest(family: Family, raises: Raises) -> FoundDistortion:
    num_images = _first_images(family.patterns.shape[1])
    tried = raises(family, family.patterns, num_images).nan_to_num(0.0)
    finalists = family.patterns[tried.flatten(1).amax(1).argsort(descending=True)[:FINALISTS]]
    # Measured again: the best of many is partly luck.
    again = raises(family, finalists, IMAGES_PER_FINALIST).nan_to_num(0.0)
    best = int(again.argmax())
    which, label = divmod(best, again.shape[2])
    return FoundDistortion(
        family=family,
        pattern=finalists.flatten(0, 1)[which],
        suspected_class=label,
        anomaly=float(again.flatten()[best]),
    )


def _first_images(group_size: int) -> int:
    """Return on how many scenes each pattern of a group is tried at first."""
    return -(-IMAGES_PER_GROUP // group_size)
