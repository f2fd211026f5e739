"""The patch that moves a model most, searched without data, for each place of an image by itself.

A backdoor obeys its patch where the patch was planted: a few pixels beside, it is hardly stronger
than any other. A search that moves the patch about from image to image therefore does not find it;
one that stays at a place does, within a few steps. What it finds in a clean model raises a class by
one to three standard deviations of the logits, and by three to fourteen in a backdoored one.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fl_defense.model.batches import CHUNK
from fl_defense.model.spec import Pixels
from fl_defense.search.effects import leads
from fl_defense.surrogates.pool import AnsweredScenes

MOST_PER_AXIS = 16
"""Places along an axis: half a patch apart, and further in images that are too large for that."""
FIRST_STEPS = 8
"""Steps at every place before the strongest are looked at."""
IMAGES_PER_PLACE = 3
"""Images that a place is tried with in a step."""
LEAST_STEP = 0.2
"""Frank-Wolfe's step never gets shorter: the network that is searched changes."""
MEMORY = 0.7
"""Share of the earlier estimate of a patch's effect that each step keeps."""
EVERYWHERE = 0.3
"""How often a patch of no effect is drawn, against one of the mean effect."""
VALUES_AT_ONCE = 2**22
"""Pixel values of images that are searched with in one pass."""
LARGEST_EFFECT = 1e12
"""Bound of an effect, far above any that a network with finite answers shows."""
TINY = 1e-12
"""Keeps a division or a weight from being zero."""
Movement = Callable[[Tensor], Tensor]
"""From patched images (B, C, H, W) in [0, 1] to what the patches changed in the logits, (B, K)."""
Trial = Callable[[int], tuple[Tensor, Movement]]
"""Draws a number of images in [0, 1] to try patches on, with what tells the patches' effect."""


class PatchSearch:
    """One patch per place, each the one that raises some class most there, as far as it is known.

    Frank-Wolfe over the box of all patches, whose best corner along a gradient is its sign. Patches
    start at random, so that no class is preferred; which class a patch raises most, decides where
    it goes.

    Args:
        shape: channels, height, width of an image.
        side: of the patch, in pixels.
        device: where the images are.

    Warns:
        UserWarning: if the image is too large for its places to touch one another.
    """

    def __init__(self, shape: tuple[int, int, int], side: int, device: torch.device) -> None:
        channels, height, width = shape
        rows, columns = _corners(height, side, device), _corners(width, side, device)
        apart = max(_stride(length, side) for length in (height, width))
        if apart > side:
            warnings.warn(
                f"patches of {side} pixels are searched {apart} pixels apart in images of "
                f"{height}x{width}: a trigger in between is missed; give a larger patch size",
                stacklevel=2,
            )
        self.places = torch.cartesian_prod(rows, columns)
        """(P, 2): upper left corners."""
        num = len(self.places)
        self.patches = torch.rand(num, channels, side, side, device=device) * 2 - 1
        """(P, C, side, side) in [-1, 1], to be added to images in [0, 1]."""
        self.effects = torch.ones(num, device=device)
        """(P,): mean square of the raise, in logits."""
        self._steps = torch.zeros(num, device=device)
        self._at_once = min(CHUNK, max(1, VALUES_AT_ONCE // (channels * height * width)))

    @property
    def num_first_images(self) -> int:
        """Images that `search_everywhere` passes through the network."""
        return FIRST_STEPS * IMAGES_PER_PLACE * len(self.places)

    def search_everywhere(self, trial: Trial) -> None:
        """Take the first steps, at every place."""
        everywhere = torch.arange(len(self.places), device=self.places.device)
        for _ in range(FIRST_STEPS):
            for tried in everywhere.repeat_interleave(IMAGES_PER_PLACE).split(self._at_once):
                self.search(trial, tried)

    def choose(self, num: int) -> Tensor:
        """Return places to try, one per image: half of them the strongest, half any.

        Args:
            num: images at most.
        """
        num_places = max(1, num // IMAGES_PER_PLACE)
        anywhere = torch.randint(
            len(self.places), (num_places - num_places // 2,), device=self.places.device
        )
        tried = torch.cat([self.draw(num_places // 2), anywhere]) if num_places > 1 else anywhere
        return tried.repeat_interleave(IMAGES_PER_PLACE)[:num]

    def search(self, trial: Trial, tried: Tensor) -> None:
        """Take one step at some places.

        Args:
            trial: what is searched; its effect is told from the logits of the model as it was.
            tried: (B,): the place whose patch each image gets.
        """
        images, movement = trial(len(tried))
        patches = self.patches.clone().requires_grad_(True)
        moved = movement(self.paste(images, patches[tried], tried))
        lead = leads(moved)
        by_place = torch.zeros(len(patches), lead.shape[1], device=lead.device)
        classes = by_place.index_add(0, tried, lead.detach()).argmax(1)
        rise = lead.gather(1, classes[tried][:, None])[:, 0]
        (gradient,) = torch.autograd.grad(rise.sum(), patches)

        times = tried.bincount(minlength=len(patches))
        is_tried = times > 0
        step = (2 / (self._steps + 2)).clamp(min=LEAST_STEP).view(-1, 1, 1, 1)
        stepped = torch.lerp(self.patches, gradient.sign(), step)
        self.patches = torch.where(is_tried.view(-1, 1, 1, 1), stepped, self.patches)
        self._steps = self._steps + is_tried
        squares = torch.zeros_like(self.effects).index_add(0, tried, rise.detach().relu().square())
        self.effects = _remembered(self.effects, squares, times)

    def strongest(self) -> float:
        """Return how far the strongest patch raises its class, in logits."""
        # Less what is left of the effect of 1 that all places start from.
        left = MEMORY**self._steps
        return float(((self.effects - left) / (1 - left)).nan_to_num(0.0).max().clamp(min=0).sqrt())

    def draw(self, num: int) -> Tensor:
        """Return places, (num,); those of strong patches more often."""
        weights = self.effects + EVERYWHERE * self.effects.mean() + TINY
        return torch.multinomial(weights, num, replacement=True)

    def add_to(self, images: Tensor) -> Tensor:
        """Add a patch, strong ones more often, to each image (B, C, H, W) in [0, 1]."""
        chosen = self.draw(len(images))
        return self.paste(images, self.patches[chosen], chosen)

    def paste(self, images: Tensor, patches: Tensor, chosen: Tensor) -> Tensor:
        """Add patches (B, C, side, side) to images (B, C, H, W) in [0, 1] at the chosen places."""
        side = patches.shape[-1]
        within = torch.arange(side, device=images.device)
        rows = self.places[chosen, 0, None] + within
        columns = self.places[chosen, 1, None] + within
        pixels = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).flatten(1)
        pixels = pixels[:, None].expand(-1, images.shape[1], -1)
        added = torch.zeros_like(images).flatten(2).scatter(2, pixels, patches.flatten(2))
        return (images + added.view_as(images)).clamp(0, 1)

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


def _remembered(effects: Tensor, squares: Tensor, times: Tensor) -> Tensor:
    """Return the running means of effects, (P,), after some of them were seen again.

    Args:
        effects: the means so far.
        squares: sums of what was seen now.
        times: how often each was seen now; those at 0 stay as they are.
    """
    seen = MEMORY * effects + (1 - MEMORY) * squares / times.clamp(min=1)
    # A network that overflows is found out later; weights that cannot be drawn from would break off
    # here, on a GPU for good.
    seen = seen.nan_to_num(0.0, posinf=LARGEST_EFFECT).clamp(max=LARGEST_EFFECT)
    return torch.where(times > 0, seen, effects)


def searched_side(patch_size: int | None, shape: tuple[int, ...]) -> int:
    """Return the side of the searched patch for images of (C, H, W).

    Args:
        patch_size: its side; None: a fifth of the image's shorter side, from 3 to 5 pixels, which
            is DHBE's 5 for images of 25 pixels and more.
        shape: channels, height, width.

    Raises:
        ValueError: if the patch is larger than the image.
    """
    side = min(shape[1:])
    searched = min(max(side // 5, 3), 5) if patch_size is None else patch_size
    if searched > side:
        raise ValueError(f"patch_size must be at most the image's {side}, got {searched}")
    return searched


def trial_on(network: nn.Module, scenes: AnsweredScenes, pixels: Pixels) -> Trial:
    """Return how patches on scenes are tried on a network, beside the answers to plain scenes."""

    def trial(num: int) -> tuple[Tensor, Movement]:
        inputs, answers = scenes.sample(num)

        def moved(patched: Tensor) -> Tensor:
            logits: Tensor = network(pixels.normalize(patched))
            return logits - answers

        return pixels.denormalize(inputs).clamp(0, 1), moved

    return trial


def _corners(length: int, side: int, device: torch.device) -> Tensor:
    """Return where along an axis a patch may begin: from one edge to the other."""
    last = length - side
    return torch.tensor([*range(0, last, _stride(length, side)), last], device=device)


def _stride(length: int, side: int) -> int:
    """Return how far one place lies from the next: half a patch, as long as there is room."""
    return max(1, side // 2, -(-(length - side) // (MOST_PER_AXIS - 1)))
