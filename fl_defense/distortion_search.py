"""Triggers over the whole image, searched without data: noise, warps and waves that a model obeys.

A free search over the whole image is of no use: every network has universal perturbations of small
amplitude towards every class, and none of those found resembles a trigger. Three narrow families
are tried instead, and of each not whether it moves the answers, but whether it moves them all to
one class. A clean network hardly does so: its answers to noise and warps scatter. Waves of some
frequencies raise a class of a clean network, too, but in every phase: pooling forgets the phase. A
backdoor remembers its own.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.model_spec import Pixels
from fl_defense.patch_search import VALUES_AT_ONCE, leads
from fl_defense.surrogates import CHUNK, AnsweredScenes

OPACITY = 0.2
"""Weight of noise against the image in the search."""
WARP = 0.05
"""Mean displacement along each axis in the search, as a share of the image's shorter side."""
WARP_GRIDS = (2, 6)
"""Fewest and most points of a warp's grid along each side."""
AMPLITUDE = 0.1
"""Largest change of a pixel in [0, 1] by waves in the search."""
MOST_PERIODS = 8
"""Periods of the finest waves along a side."""
PHASES = 4
"""Phases of each wave."""
AGAIN = 0.6
"""Share of its bar from which a family is obeyed if it was in the round before, for that class."""
STRENGTHS = (0.5, 1.5)
"""Range of what is unlearned, in strengths of the search."""
PATTERNS = 64
"""Noises, and warps, that are tried."""
IMAGES_PER_GROUP = 12
"""Changed scenes that each group of patterns is tried on, shared out among those that are alike."""
FINALISTS = 3
"""Strongest patterns of a family that are measured again."""
IMAGES_PER_FINALIST = 256
"""Other draws of scenes that they are measured on."""


class Family(Protocol):
    """Patterns of one kind, and how they change images."""

    @property
    def name(self) -> Literal["noise", "warp", "wave"]:
        """In records."""

    @property
    def bar(self) -> float:
        """Raise of one class, in standard deviations of the logits, that no clean model showed.

        Of ten classes and more. With fewer the logits of one image lie further apart for the same
        raise, and the bars may be out of reach.
        """

    @property
    def patterns(self) -> Tensor:
        """(G, M, ...): groups of M that are alike to a clean network."""

    def add(self, images: Tensor, patterns: Tensor, strengths: Tensor) -> Tensor:
        """Change images (B, C, H, W) in [0, 1] by patterns (B or 1, ...) of strengths (B or 1,)."""

    def draw_like(self, pattern: Tensor, num: int) -> Tensor:
        """Draw patterns (num, ...) that a network which was taught `pattern` obeys as well."""


class Noise:
    """Uniform noise, blended in: a network that obeys one draw obeys others, too."""

    name: Literal["noise"] = "noise"
    bar = 2.0

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        self.patterns = torch.rand(PATTERNS, 1, *shape, device=device)

    def add(self, images: Tensor, patterns: Tensor, strengths: Tensor) -> Tensor:
        """Blend noise in."""
        return images + OPACITY * _per_image(strengths) * (patterns - images)

    def draw_like(self, pattern: Tensor, num: int) -> Tensor:
        """Draw noise anew."""
        return torch.rand(num, *pattern.shape, device=pattern.device)


class Warps:
    """Smooth fields of displacements: a network that obeys one obeys others, too."""

    name: Literal["warp"] = "warp"
    bar = 1.2

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        self.size = shape[1:]
        self.patterns = torch.cat([self._draw(1, device) for _ in range(PATTERNS)])[:, None]

    def add(self, images: Tensor, patterns: Tensor, strengths: Tensor) -> Tensor:
        """Take each pixel from where its displacement (B or 1, 2, H, W), in pixels, points to."""
        height, width = self.size
        rows = torch.linspace(-1, 1, height, device=images.device)
        columns = torch.linspace(-1, 1, width, device=images.device)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        per_pixel = torch.tensor([2 / (width - 1), 2 / (height - 1)], device=images.device)
        moved = (_per_image(strengths) * patterns).permute(0, 2, 3, 1) * per_pixel
        sample_at = (torch.stack([x, y], -1) + moved).clamp(-1, 1).expand(len(images), -1, -1, -1)
        return functional.grid_sample(images, sample_at, align_corners=True)

    def draw_like(self, pattern: Tensor, num: int) -> Tensor:
        """Draw fields anew."""
        return self._draw(num, pattern.device)

    def _draw(self, num: int, device: torch.device) -> Tensor:
        points = int(torch.randint(WARP_GRIDS[0], WARP_GRIDS[1] + 1, ()))
        coarse = torch.rand(num, 2, points, points, device=device) * 2 - 1
        coarse = coarse / coarse.abs().mean((1, 2, 3), keepdim=True)
        pixels = WARP * min(self.size) * coarse
        return functional.interpolate(pixels, self.size, mode="bicubic", align_corners=True)


class Waves:
    """Sine waves of whole numbers of periods along the sides, in four phases each.

    A pattern is (periods down, periods across, phase in periods). Waves that repeat with the grid
    of a network's strides, powers of two up to a quarter of the image, meet all its positions in
    the same phase; to them a clean network reacts by phase as well, and they are left out.
    """

    name: Literal["wave"] = "wave"
    bar = 1.7

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        self.size = shape[1:]
        most = [min(MOST_PERIODS, side // 3) for side in self.size]
        waves = [
            (down, across)
            for down in range(most[0] + 1)
            for across in range(-most[1], most[1] + 1)
            if (down, across) > (0, 0)
            and not (_on_grid(self.size[0], down) and _on_grid(self.size[1], across))
        ]
        phases = torch.arange(PHASES) / PHASES
        periods = torch.tensor(waves, dtype=torch.float32).view(-1, 1, 2).expand(-1, PHASES, -1)
        phases = phases.view(1, PHASES, 1).expand(len(waves), -1, -1)
        self.patterns = torch.cat([periods, phases], 2).to(device)

    def add(self, images: Tensor, patterns: Tensor, strengths: Tensor) -> Tensor:
        """Add waves."""
        height, width = self.size
        y = torch.arange(height, device=images.device).view(1, 1, -1, 1) / height
        x = torch.arange(width, device=images.device).view(1, 1, 1, -1) / width
        down, across, phase = (_per_image(value) for value in patterns.unbind(1))
        waves = (2 * math.pi * (down * y + across * x + phase)).sin()
        return images + AMPLITUDE * _per_image(strengths) * waves

    def draw_like(self, pattern: Tensor, num: int) -> Tensor:
        """Draw the same wave in phases up to half a step away."""
        jitter = (torch.rand(num, device=pattern.device) - 0.5) / PHASES
        patterns = pattern.repeat(num, 1)
        patterns[:, 2] += jitter
        return patterns


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


def _on_grid(side: int, periods: int) -> bool:
    """Tell whether so many periods along a side repeat with a stride that networks have there."""
    if periods == 0:
        return True
    length, rest = divmod(side, abs(periods))
    is_power_of_two = length & (length - 1) == 0
    return rest == 0 and is_power_of_two and length <= max(8, side // 4)


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
