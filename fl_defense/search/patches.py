"""The patch that moves a model most, searched without data, for each place of an image by itself.

A backdoor reacts to its patch where the patch was planted: a few pixels beside, the patch is hardly
stronger than any other. A search that moves the patch about from image to image therefore does not
find it; one that stays at a place does, within a few steps. What it finds in a clean model lifts a
class by one to three standard deviations of the logits, and by three to fourteen in a backdoored
one.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fl_defense.model.batches import CHUNK
from fl_defense.progress import counted
from fl_defense.search.effects import gain_over_mean
from fl_defense.search.probe import Probe
from fl_defense.validation import require_at_least, require_share

PIXEL_VALUES_PER_PASS = 2**22
"""Pixel values of images that are searched with in one pass: 16 MiB."""
LARGEST_EFFECT = 1e12
"""Bound of an effect, far above any that a network with finite logits shows."""
LEAST_WEIGHT = 1e-12
"""Keeps the weight of a place from being zero."""


@dataclass(frozen=True, kw_only=True)
class PatchSearchSettings:
    """How a patch is searched for each place."""

    places_per_axis: int = 16
    """Most places along an axis: half a patch apart, and further in images too large for that."""
    first_steps: int = 8
    """Steps at every place before the strongest are looked at more often."""
    images_per_place: int = 3
    """Images that a place is tried with in a step."""
    least_step: float = 0.2
    """Frank-Wolfe's step never gets shorter, in [0, 1]: the network that is searched changes."""
    effect_memory: float = 0.7
    """Share of the earlier estimate of a patch's effect that each step keeps, in [0, 1]."""
    exploration: float = 0.3
    """How often a patch of no effect is drawn, against one of the mean effect."""

    def __post_init__(self) -> None:
        require_at_least(self, places_per_axis=2, first_steps=1, images_per_place=1, exploration=0)
        require_share(self, "least_step", "effect_memory")


class PatchSearch:
    """One patch per place, each the one that lifts some class most there, as far as it is known.

    Frank-Wolfe over the box of all patches, whose best corner along a gradient is its sign. Patches
    start at random, so that no class is preferred; which class a patch lifts most decides where it
    goes.

    Args:
        settings: of the search.
        shape: channels, height, width of an image.
        side: of the patch, in pixels.
        device: where the images are.

    Warns:
        UserWarning: if the image is too large for its places to touch one another.
    """

    def __init__(
        self,
        settings: PatchSearchSettings,
        shape: tuple[int, int, int],
        side: int,
        device: torch.device,
    ) -> None:
        self.settings = settings
        channels, height, width = shape
        most = settings.places_per_axis
        rows, columns = (_corners(length, side, most, device) for length in (height, width))
        apart = max(_stride(length, side, most) for length in (height, width))
        if apart > side:
            warnings.warn(
                f"patches of {side} pixels are searched {apart} pixels apart in images of "
                f"{height}x{width}: a trigger in between is missed; give a larger patch size",
                stacklevel=2,
            )
        self.places = torch.cartesian_prod(rows, columns)
        """(P, 2): upper left corners."""
        num = len(self.places)
        self.patches = torch.rand(num, channels, side, side, device=device)
        """(P, C, side, side) in [0, 1]: what the pixels of a place are replaced by."""
        self.effects = torch.ones(num, device=device)
        """(P,): running mean of the squared gain, in logits."""
        self._steps = torch.zeros(num, device=device)
        self._at_once = min(CHUNK, max(1, PIXEL_VALUES_PER_PASS // (channels * height * width)))

    def search_everywhere(self, probe: Probe) -> None:
        """Take the first steps, at every place."""
        places = torch.arange(len(self.places), device=self.places.device)
        for _ in counted("searching for patches", range(self.settings.first_steps)):
            repeated = places.repeat_interleave(self.settings.images_per_place)
            for chunk in repeated.split(self._at_once):
                self.step(probe, chunk)

    def choose(self, num: int) -> Tensor:
        """Return places to try, one per image: half of them the strongest, half any.

        Args:
            num: images at most.
        """
        per_place = self.settings.images_per_place
        num_places = max(1, num // per_place)
        anywhere = torch.randint(
            len(self.places), (num_places - num_places // 2,), device=self.places.device
        )
        chosen = torch.cat([self.draw(num_places // 2), anywhere]) if num_places > 1 else anywhere
        return chosen.repeat_interleave(per_place)[:num]

    def step(self, probe: Probe, places: Tensor) -> None:
        """Take one step at some places.

        Args:
            probe: the network that is searched, with scenes.
            places: (B,): the place whose patch each image gets.
        """
        patches = self.patches.clone().requires_grad_(True)  # (P, C, side, side)
        scenes = probe.draw(len(places))  # (B,)
        patched = self.paste(probe.images(scenes), patches[places], places)
        gains = gain_over_mean(probe.logit_change(patched, scenes))  # (B, K)
        classes = self._strongest_classes(gains, places)  # (P,)
        gain = gains.gather(1, classes[places][:, None])[:, 0]  # (B,)
        (gradient,) = torch.autograd.grad(gain.sum(), patches)
        # (P,): how often each was tried. Not bincount, for which a GPU is waited for.
        times = torch.zeros(len(patches), dtype=torch.long, device=places.device)
        times = times.index_add(0, places, torch.ones_like(places))
        self._move(gradient, times > 0)
        self._remember(gain.detach(), places, times)

    def _strongest_classes(self, gains: Tensor, places: Tensor) -> Tensor:
        """Return the class that gains most at each place, (P,), of gains (B, K)."""
        by_place = torch.zeros(len(self.places), gains.shape[1], device=gains.device)
        return by_place.index_add(0, places, gains.detach()).argmax(1)

    def _move(self, gradient: Tensor, is_tried: Tensor) -> None:
        """Take Frank-Wolfe's step towards the best corner of the box where `is_tried` (P,)."""
        step = (2 / (self._steps + 2)).clamp(min=self.settings.least_step).view(-1, 1, 1, 1)
        corner = (gradient.sign() + 1) / 2  # of the box; its middle where nothing would change
        stepped = torch.lerp(self.patches, corner, step)
        self.patches = torch.where(is_tried.view(-1, 1, 1, 1), stepped, self.patches)
        self._steps = self._steps + is_tried

    def _remember(self, gain: Tensor, places: Tensor, times: Tensor) -> None:
        """Take gains (B,) at places (B,) into the running means of their squares."""
        squares = torch.zeros_like(self.effects).index_add(0, places, gain.relu().square())
        memory = self.settings.effect_memory
        seen = memory * self.effects + (1 - memory) * squares / times.clamp(min=1)
        # A network that overflows is found out later; weights that cannot be drawn from would break
        # off here, on a GPU for good.
        seen = seen.nan_to_num(0.0, posinf=LARGEST_EFFECT).clamp(max=LARGEST_EFFECT)
        self.effects = torch.where(times > 0, seen, self.effects)

    def strongest_gain(self) -> float:
        """Return how far the strongest patch lifts its class, in logits."""
        # Less what is left of the effect of 1 that all places start from.
        left = self.settings.effect_memory**self._steps
        return float(((self.effects - left) / (1 - left)).nan_to_num(0.0).max().clamp(min=0).sqrt())

    def draw(self, num: int) -> Tensor:
        """Return places, (num,); those of strong patches more often."""
        weights = self.effects + self.settings.exploration * self.effects.mean() + LEAST_WEIGHT
        return torch.multinomial(weights, num, replacement=True)

    def put_on(self, images: Tensor) -> Tensor:
        """Put a patch, strong ones more often, on each image (B, C, H, W) in [0, 1]."""
        places = self.draw(len(images))
        return self.paste(images, self.patches[places], places)

    def paste(self, images: Tensor, patches: Tensor, places: Tensor) -> Tensor:
        """Replace what images (B, C, H, W) show at places (B,) by patches (B, C, side, side)."""
        side = patches.shape[-1]
        within = torch.arange(side, device=images.device)
        rows = self.places[places, 0, None] + within
        columns = self.places[places, 1, None] + within
        pixels = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).flatten(1)
        pixels = pixels[:, None].expand(-1, images.shape[1], -1)  # (B, C, side * side)
        return images.flatten(2).scatter(2, pixels, patches.flatten(2)).view_as(images)

    def state(self) -> dict[str, Any]:
        """Return what `load` takes."""
        return {"patches": self.patches, "effects": self.effects, "steps": self._steps}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier state.

        Raises:
            ValueError: if it was written by a search of another kind or size.
        """
        device = self.places.device
        if "patches" not in state or state["patches"].shape != self.patches.shape:
            raise ValueError("state: was written by a patch search of another kind or size")
        self.patches = state["patches"].to(device)
        self.effects = state["effects"].to(device)
        self._steps = state["steps"].to(device)


def searched_side(patch_size: int | None, shape: tuple[int, ...]) -> int:
    """Return the side of the searched patch for images of (C, H, W).

    Args:
        patch_size: its side; None: a fifth of the image's shorter side, from 3 to 5 pixels, which
            is DHBE's 5 for images of 25 pixels and more.
        shape: channels, height, width.

    Raises:
        ValueError: if the patch is larger than the image.

    Example:
        >>> searched_side(None, (1, 16, 16))
        3
    """
    side = min(shape[1:])
    searched = min(max(side // 5, 3), 5) if patch_size is None else patch_size
    if searched > side:
        raise ValueError(f"patch_size must be at most the image's {side}, got {searched}")
    return searched


def _corners(length: int, side: int, most: int, device: torch.device) -> Tensor:
    """Return where along an axis a patch may begin: from one edge to the other."""
    last = length - side
    return torch.tensor([*range(0, last, _stride(length, side, most)), last], device=device)


def _stride(length: int, side: int, most: int) -> int:
    """Return how far one place lies from the next: half a patch, as long as there is room."""
    return max(1, side // 2, -(-(length - side) // (most - 1)))
