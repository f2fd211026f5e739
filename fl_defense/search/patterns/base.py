"""The contract of a family of patterns: candidates for a trigger that a free search may shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class PatternFamily(Protocol):
    """Changes of images that are given by a code of numbers in [-1, 1]: a box to be searched.

    A frozen dataclass whose fields are its settings. The search starts several times; what belongs
    to a start and is not searched, such as the place of a patch, the family tells by its number.

    Example:
        >>> from fl_defense.search.patterns import PATTERN_FAMILIES
        >>> [kind().num_starts((1, 12, 16)) > 0 for kind in PATTERN_FAMILIES.values()]
        [True, True, True, True]
    """

    @property
    def name(self) -> str:
        """In records and in the memory of patterns; tells families of other settings apart."""

    @property
    def bar(self) -> float:
        """Gain, in spreads of the logits, beyond which a reply stands out from the others."""

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise ValueError if the family does not fit images of (C, H, W)."""

    def num_starts(self, shape: tuple[int, int, int]) -> int:
        """Return how many starts there are for images of (C, H, W)."""

    def code_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Return the shape of one code for images of (C, H, W)."""

    def apply(self, images: Tensor, codes: Tensor, starts: Tensor) -> Tensor:
        """Change images (B, C, H, W) in [0, 1] by codes (B, ...) of starts (B,)."""

    def place(self, shape: tuple[int, int, int], start: int) -> tuple[int, int, int, int]:
        """Return top, left, height and width of what a start changes."""

    def starts_near(
        self, shape: tuple[int, int, int], places: Sequence[tuple[int, int, int, int]]
    ) -> Tensor:
        """Return the numbers of the starts that are worth a search, given places found before."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pattern:
    """A member of a family, and the class that it is thought to serve.

    Example:
        >>> from fl_defense.search.patterns import Patches
        >>> code = torch.ones(1, 3, 3)
        >>> pattern = Pattern(family=Patches(share=1 / 4), start=0, code=code, label=2)
        >>> pattern.picture((1, 12, 16))[0, :4, :4]
        tensor([[1.0000, 1.0000, 1.0000, 0.5000],
                [1.0000, 1.0000, 1.0000, 0.5000],
                [1.0000, 1.0000, 1.0000, 0.5000],
                [0.5000, 0.5000, 0.5000, 0.5000]])
    """

    family: PatternFamily
    start: int
    """Number of the start within the family."""
    code: Tensor
    """Numbers in [-1, 1]."""
    label: int
    """The class whose logit it lifts."""

    def apply(self, images: Tensor) -> Tensor:
        """Change each of images (B, C, H, W) in [0, 1]; the result is in the same range."""
        codes = self.code.to(images.device).expand(len(images), *self.code.shape)
        starts = torch.full((len(images),), self.start, device=images.device)
        return self.family.apply(images, codes, starts)

    def place(self, shape: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """Return top, left, height and width of what it changes in images of (C, H, W)."""
        return self.family.place(shape, self.start)

    def picture(self, shape: tuple[int, int, int]) -> Tensor:
        """Return what it does to a gray image, (C, H, W) in [0, 1], on the CPU."""
        return self.apply(torch.full((1, *shape), 0.5))[0].clamp(0, 1)
