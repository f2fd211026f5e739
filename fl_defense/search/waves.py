"""Sinusoidal waves as triggers over the whole image."""

import math
from typing import Literal

import torch
from torch import Tensor

from fl_defense.search.family import per_image

AMPLITUDE = 0.1
"""Largest change of a pixel in [0, 1] by waves in the search."""
MOST_PERIODS = 8
"""Periods of the finest waves along a side."""
PHASES = 4
"""Phases of each wave."""


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
        down, across, phase = (per_image(value) for value in patterns.unbind(1))
        waves = (2 * math.pi * (down * y + across * x + phase)).sin()
        return images + AMPLITUDE * per_image(strengths) * waves

    def draw_like(self, pattern: Tensor, num: int) -> Tensor:
        """Draw the same wave in phases up to half a step away."""
        jitter = (torch.rand(num, device=pattern.device) - 0.5) / PHASES
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
