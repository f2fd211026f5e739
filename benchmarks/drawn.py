"""Backdoors drawn from a seed, so that no setting is chosen on a single trigger."""

from dataclasses import dataclass

import torch
from torch import Tensor

from simulations.attack.backdoor import Backdoor

SIDES = (2, 5)
"""Smallest patch in pixels; largest as one share of this many of the image's side, rounded down."""
OPACITIES = (0.5, 1.0)
"""Range of a patch's weight against the image."""
PATTERNS = ("checkerboard", "solid", "random")


@dataclass(frozen=True, kw_only=True)
class DrawnPatch:
    """A patch of any size, place, pattern, color and opacity; its dark pixels are drawn as well."""

    size: int
    """Height and width in pixels."""
    row: int
    """Of the upper left pixel."""
    column: int
    """Of the upper left pixel."""
    pattern: str
    """One of `PATTERNS`."""
    bright: tuple[float, ...]
    """Values of the pattern's ones, per channel."""
    dark: tuple[float, ...]
    """Values of the pattern's zeros, per channel."""
    opacity: float
    """Weight of the patch, in (0, 1]; the image keeps the rest."""
    seed: int
    """Draws the random pattern."""

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if the patch leaves the image."""
        if max(self.row, self.column) + self.size > min(input_shape[1:]):
            raise ValueError(f"the patch leaves an image of {input_shape}; draw it for this shape")

    def stamp(self, images: Tensor) -> Tensor:
        """Return copies of images (B, C, H, W) in [0, 1] with the patch on them."""
        bright, dark = (images.new_tensor(each).view(-1, 1, 1) for each in (self.bright, self.dark))
        patch = torch.where(self._ones().to(images.device), bright, dark)
        stamped = images.clone()
        rows, columns = (slice(at, at + self.size) for at in (self.row, self.column))
        stamped[:, :, rows, columns] = torch.lerp(
            stamped[:, :, rows, columns], patch.expand(len(images), -1, -1, -1), self.opacity
        )
        return stamped

    def _ones(self) -> Tensor:
        steps = torch.arange(self.size)
        if self.pattern == "checkerboard":
            return (steps[:, None] + steps[None, :]) % 2 == 0
        if self.pattern == "solid":
            return torch.ones(self.size, self.size, dtype=torch.bool)
        drawn = torch.Generator().manual_seed(self.seed)
        return torch.rand(self.size, self.size, generator=drawn) < 0.5


def drawn_backdoor(seed: int, shape: tuple[int, int, int], num_classes: int) -> Backdoor:
    """Draw a patch for images of (C, H, W) and the class that it turns them into.

    >>> drawn_backdoor(0, (1, 28, 28), 10) == drawn_backdoor(0, (1, 28, 28), 10)
    True
    """
    draw = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    def share() -> float:
        return round(float(torch.rand((), generator=draw)), 3)

    side = min(shape[1:])
    size = whole(SIDES[0], max(SIDES[0], side // SIDES[1]))
    low, high = OPACITIES
    # Bright and dark differ: a patch of one gray is hardly a pattern.
    dark = tuple(round(0.4 * share(), 3) for _ in range(shape[0]))
    patch = DrawnPatch(
        size=size,
        row=whole(0, shape[1] - size),
        column=whole(0, shape[2] - size),
        pattern=PATTERNS[whole(0, len(PATTERNS) - 1)],
        bright=tuple(round(1 - 0.4 * share(), 3) for _ in range(shape[0])),
        dark=dark,
        opacity=round(low + (high - low) * share(), 3),
        seed=seed,
    )
    return Backdoor(trigger=patch, target=whole(0, num_classes - 1))
