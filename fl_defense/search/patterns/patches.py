"""Square patches of one side, each at its own place."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_defense.validation import require, require_at_least, require_declared, require_positive


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Squares whose pixels are changed freely; places lie half a side apart.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> patches = Patches(share=1 / 4)
        >>> patches.code_shape((1, 12, 16)), patches.place((1, 12, 16), start=1)
        ((1, 3, 3), (0, 1, 3, 3))
    """

    share: float = 1 / 3
    """Side as a share of the image's shorter side, in (0, 1]."""
    smallest: int = 3
    """Smallest side in pixels, whatever the share."""
    is_refinement: bool = False
    """Search only where a family before this one has found something; otherwise everywhere."""
    bar: float = 1.5
    """Gain, in spreads of the logits, beyond which a reply stands out from the others."""

    def __post_init__(self) -> None:
        require_declared(self)
        require(0 < self.share <= 1, "share", "in (0, 1]", self.share)
        require_at_least(self, smallest=1)
        require_positive(self, "bar")

    @property
    def name(self) -> str:
        """Kind and share: patches of different sides are different families."""
        return f"patch 1/{1 / self.share:.3g}"

    def check(self, shape: tuple[int, int, int]) -> None:
        """Refuse images that are smaller than the smallest patch."""
        require(
            min(shape[1:]) >= self.smallest,
            "smallest",
            f"at most the image's side of {min(shape[1:])} pixels",
            self.smallest,
        )

    def side(self, shape: tuple[int, int, int]) -> int:
        """Return the side in pixels for images of (C, H, W)."""
        return max(self.smallest, round(self.share * min(shape[1:])))

    def corners(self, shape: tuple[int, int, int]) -> Tensor:
        """Return the upper left corner of each start, (R, 2)."""
        side = self.side(shape)
        return torch.cartesian_prod(*(_begins(length, side) for length in shape[1:]))

    def num_starts(self, shape: tuple[int, int, int]) -> int:
        """Return the number of places."""
        return len(self.corners(shape))

    def code_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Return the shape of a patch, (C, side, side)."""
        return shape[0], self.side(shape), self.side(shape)

    def apply(self, images: Tensor, codes: Tensor, starts: Tensor) -> Tensor:
        """Add patches (B, C, side, side) to images."""
        shape = (images.shape[1], images.shape[2], images.shape[3])
        within = torch.arange(codes.shape[-1], device=images.device)
        corners = self.corners(shape).to(images.device)[starts]
        rows, columns = corners[:, 0, None] + within, corners[:, 1, None] + within
        pixels = (rows[:, :, None] * shape[2] + columns[:, None, :]).flatten(1)
        pixels = pixels[:, None].expand(-1, shape[0], -1)
        added = torch.zeros_like(images).flatten(2).scatter(2, pixels, codes.flatten(2))
        return (images + added.view_as(images)).clamp(0, 1)

    def place(self, shape: tuple[int, int, int], start: int) -> tuple[int, int, int, int]:
        """Return the square."""
        row, column = self.corners(shape)[start].tolist()
        side = self.side(shape)
        return row, column, side, side

    def starts_near(
        self, shape: tuple[int, int, int], places: Sequence[tuple[int, int, int, int]]
    ) -> Tensor:
        """Return all places; of a refinement those that lie within a place found before."""
        corners = self.corners(shape)
        if not self.is_refinement:
            return torch.arange(len(corners))
        last = corners + self.side(shape)
        near = torch.zeros(len(corners), dtype=torch.bool)
        for top, left, height, width in places:
            inside = (corners[:, 0] >= top) & (corners[:, 1] >= left)
            near |= inside & (last[:, 0] <= top + height) & (last[:, 1] <= left + width)
        return near.nonzero().flatten()


def _begins(length: int, side: int) -> Tensor:
    """Return where patches begin along an axis: half a side apart, the last one at the edge."""
    last = length - side
    return torch.tensor([*range(0, last, max(1, side // 2)), last])
