"""Sinusoidal waves as triggers over the whole image."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fl_defense.search.family import FamilyName, per_image
from fl_defense.validation import require_at_least, require_positive


@dataclass(frozen=True, kw_only=True)
class Waves:
    """Sine waves of whole numbers of periods along the sides, in several phases each.

    A pattern is (periods down, periods across, phase in periods). Waves that repeat with the grid
    of a network's strides, powers of two up to a quarter of the image, meet all its positions in
    the same phase; to them a clean network reacts by phase as well, and they are left out.
    """

    bar: float = 1.7
    """Gain of one class beyond the mean of a wave's phases, in standard deviations of the logits,
    above which it is a trigger."""
    amplitude: float = 0.1
    """Largest change of a pixel in [0, 1] in the search."""
    most_periods: int = 8
    """Periods of the finest waves along a side; at most a third of its pixels are taken."""
    num_phases: int = 4
    """Phases of each wave."""

    name: ClassVar[FamilyName] = "wave"

    def __post_init__(self) -> None:
        require_at_least(self, most_periods=1, num_phases=2)
        require_positive(self, "bar", "amplitude")

    def patterns(self, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        """Return each wave in its phases, (G, M, 3); G is 0 of images too small for waves."""
        sides = shape[1:]
        most = [min(self.most_periods, side // 3) for side in sides]
        waves = [
            (down, across)
            for down in range(most[0] + 1)
            for across in range(-most[1], most[1] + 1)
            if (down, across) > (0, 0)
            and not (_on_grid(sides[0], down) and _on_grid(sides[1], across))
        ]
        num = self.num_phases
        phases = (torch.arange(num) / num).view(1, num, 1).expand(len(waves), -1, -1)  # (G, M, 1)
        periods = torch.tensor(waves, dtype=torch.float32).view(-1, 1, 2).expand(-1, num, -1)
        return torch.cat([periods, phases], 2).to(device)

    def add(self, images: Tensor, patterns: Tensor, strengths: Tensor) -> Tensor:
        """Add waves."""
        height, width = images.shape[2:]
        y = torch.arange(height, device=images.device).view(1, 1, -1, 1) / height  # (1, 1, H, 1)
        x = torch.arange(width, device=images.device).view(1, 1, 1, -1) / width  # (1, 1, 1, W)
        down, across, phase = (per_image(value) for value in patterns.unbind(1))
        waves = (2 * math.pi * (down * y + across * x + phase)).sin()  # (B, 1, H, W)
        return images + self.amplitude * per_image(strengths) * waves

    def draw_like(self, pattern: Tensor, num: int) -> Tensor:
        """Draw the same wave in phases up to half a step away."""
        jitter = (torch.rand(num, device=pattern.device) - 0.5) / self.num_phases  # (N,)
        patterns = pattern.repeat(num, 1)
        patterns[:, 2] += jitter
        return patterns


def _on_grid(side: int, periods: int) -> bool:
    """Tell whether so many periods along a side repeat with a stride that networks have there."""
    if periods == 0:
        return True
    length, rest = divmod(side, abs(periods))
    is_power_of_two = length & (length - 1) == 0
    return rest == 0 and is_power_of_two and length <= max(8, side // 4)
