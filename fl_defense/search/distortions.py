"""Triggers over the whole image, searched without data: noise, warps and waves.

A free search over the whole image is of no use on a single model: every network has universal
perturbations of small amplitude towards every class, and none of those found resembles a trigger.
Three narrow families are tried instead, and of each not whether it moves the logits, but whether it
moves them all to one class. A clean network hardly does so: its answers to noise and warps scatter.
Waves of some frequencies lift a class of a clean network, too, but in every phase: pooling forgets
the phase. A backdoor remembers its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_defense.model.batches import CHUNK
from fl_defense.progress import counted
from fl_defense.search.effects import gain_over_mean
from fl_defense.search.family import Family
from fl_defense.search.noise import Noise
from fl_defense.search.patches import PIXEL_VALUES_PER_PASS
from fl_defense.search.probe import Probe
from fl_defense.search.warps import Warps
from fl_defense.search.waves import Waves
from fl_defense.validation import require, require_at_least, require_positive, require_share


@dataclass(frozen=True, kw_only=True)
class DistortionSettings:
    """How whole-image triggers are searched, and what of them is unlearned."""

    noise: Noise = Noise()
    """Blended noise."""
    warp: Warps = Warps()
    """Smooth warps."""
    wave: Waves = Waves()
    """Sine waves."""
    images_per_group: int = 12
    """Changed scenes that each group of patterns is tried on, shared out among its patterns."""
    num_candidates: int = 3
    """Groups of a family with the largest gains, which are measured again."""
    images_per_candidate: int = 256
    """Changed scenes that each of their patterns is measured on."""
    bar_over_reference: float = 1.0
    """Gain beyond that of a reference, where one is given, above which any family is a trigger; an
    honest round was seen to add up to 0.6."""
    repeat_fraction: float = 0.6
    """A family that was active last round, for the same class, stays active from this share of its
    bar on, in [0, 1]."""
    strengths: tuple[float, float] = (0.5, 1.5)
    """Least and largest strength of what is unlearned, in strengths of the search."""

    def __post_init__(self) -> None:
        require_at_least(self, images_per_group=1, num_candidates=1, images_per_candidate=1)
        require_share(self, "repeat_fraction")
        require_positive(self, "bar_over_reference")
        low, high = self.strengths
        require(0 <= low <= high, "strengths", "ascending from 0", self.strengths)

    @property
    def families(self) -> tuple[Family, ...]:
        """All families, in the order in which they are tried."""
        return self.noise, self.warp, self.wave


@dataclass(frozen=True, eq=False)
class FoundDistortion:
    """A pattern that moves a model's answers to one class."""

    family: Family
    """What kind of pattern."""
    pattern: Tensor
    """Of those that were measured again, the one with the largest gain."""
    suspected_class: int
    """The class that it lifts."""
    gain: float
    """By how much, in standard deviations of the logits; of a wave, beyond its phases' mean."""
    bar: float
    """Gain above which it is a trigger."""

    @property
    def is_active(self) -> bool:
        """Whether no clean model is known to react so strongly."""
        return self.gain > self.bar

    def is_still_active(self, earlier: Mapping[str, int], repeat_fraction: float) -> bool:
        """Tell whether it is active, counting from less on if it was active last round.

        From round to round of a federation the reaction to one trigger varies, about the bar, too.

        Args:
            earlier: the suspected classes of last round's active families, by family.
            repeat_fraction: share of the bar from which the same family and class stay active.
        """
        same = earlier.get(self.family.name) == self.suspected_class
        return self.is_active or (same and self.gain > repeat_fraction * self.bar)

    def add_to(self, images: Tensor, strengths: tuple[float, float]) -> Tensor:
        """Change each of images (B, C, H, W) in [0, 1] by a pattern of this kind of its own.

        Args:
            images: what to change.
            strengths: least and largest, drawn uniformly for each image.
        """
        patterns = self.family.draw_like(self.pattern, len(images))
        low, high = strengths
        drawn = low + (high - low) * torch.rand(len(images), device=images.device)
        return self.family.add(images, patterns, drawn).clamp(0, 1)


class Measurement:
    """How much patterns lift the classes of a model, in standard deviations of its logits.

    Args:
        probe: the model and scenes.
        spread: standard deviation of the logits of a scene.
    """

    def __init__(self, probe: Probe, spread: float) -> None:
        self.probe, self.spread = probe, spread

    def gain(self, family: Family, patterns: Tensor, num_images: int) -> Tensor:
        """Return the mean gain of each class by each pattern, (G, M, K).

        In groups of several patterns, what all of a group lift alike is no pattern's own, and is
        taken off.

        Args:
            family: what the patterns are.
            patterns: G groups of M, (G, M, ...).
            num_images: scenes to try each pattern on, the same for all.
        """
        scenes = self.probe.draw(num_images)  # (N,)
        images = self.probe.images(scenes)  # (N, C, H, W)
        at_once = min(CHUNK, PIXEL_VALUES_PER_PASS // images[0].numel())
        chunks = patterns.flatten(0, 1).split(max(1, at_once // num_images))
        step = f"searching for {family.name} over the image"
        gains = torch.cat(
            [self._gain(family, chunk, images, scenes) for chunk in counted(step, chunks)]
        )
        gains = gains.view(*patterns.shape[:2], -1)  # (G, M, K)
        return gains - gains.mean(1, keepdim=True) if patterns.shape[1] > 1 else gains

    def _gain(self, family: Family, patterns: Tensor, images: Tensor, scenes: Tensor) -> Tensor:
        """Return the mean gains (P, K) by patterns (P, ...), each tried on all images (N, ...)."""
        num, num_images = len(patterns), len(images)
        repeated = images.repeat(num, 1, 1, 1)  # (P * N, C, H, W)
        each = patterns.repeat_interleave(num_images, 0)  # (P * N, ...)
        changed = family.add(repeated, each, torch.ones(len(each), device=images.device))
        change = self.probe.logit_change(changed.clamp(0, 1), scenes.repeat(num))  # (P * N, K)
        gains = gain_over_mean(change).view(num, num_images, -1)
        mean_gains: Tensor = gains.mean(1) / self.spread
        return mean_gains


class DistortionSearch:
    """Patterns of each family, to be tried on models of one image shape.

    Args:
        settings: the families, and how they are tried.
        shape: channels, height, width of an image.
        device: where the images are.
    """

    def __init__(
        self, settings: DistortionSettings, shape: tuple[int, int, int], device: torch.device
    ) -> None:
        self.settings = settings
        tried = [(family, family.patterns(shape, device)) for family in settings.families]
        # Tiny images have no waves that are told apart.
        self.patterns = [(family, patterns) for family, patterns in tried if len(patterns) > 0]

    @torch.no_grad()
    def find(self, measurement: Measurement, *, bar: float | None = None) -> list[FoundDistortion]:
        """Return of each family the pattern that lifts one class of a model most.

        Args:
            measurement: of the model.
            bar: gain above which a pattern is a trigger; None: each family's own.
        """
        return [self._strongest(*tried, measurement, bar) for tried in self.patterns]

    def _strongest(
        self, family: Family, patterns: Tensor, measurement: Measurement, bar: float | None
    ) -> FoundDistortion:
        settings = self.settings
        num_images = -(-settings.images_per_group // patterns.shape[1])
        gains = measurement.gain(family, patterns, num_images).nan_to_num(0.0)
        order = gains.flatten(1).amax(1).argsort(descending=True)
        candidates = patterns[order[: settings.num_candidates]]
        # Measured again: the best of many is partly luck.
        again = measurement.gain(family, candidates, settings.images_per_candidate)
        again = again.nan_to_num(0.0).flatten(0, 1)  # (candidates, K)
        index, label = divmod(int(again.argmax()), again.shape[1])
        return FoundDistortion(
            family=family,
            pattern=candidates.flatten(0, 1)[index],
            suspected_class=label,
            gain=float(again[index, label]),
            bar=family.bar if bar is None else bar,
        )
