"""A patch of any pixels, as attackers learn them: it has no name for scenarios."""

from dataclasses import dataclass

from torch import Tensor

from simulations.attack.triggers.patch import Patch


@dataclass(frozen=True, kw_only=True, eq=False)
class Painted:
    """Pixels where a patch would lie."""

    patch: Patch
    """Says where, and how large."""
    pixels: Tensor
    """The pixels, (C, size, size) in [0, 1]."""

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if the patch leaves images of (C, H, W) or the pixels do not fill it."""
        self.patch.check(input_shape)
        wanted = (input_shape[0], self.patch.size, self.patch.size)
        if tuple(self.pixels.shape) != wanted:
            raise ValueError(f"pixels must be {wanted}, got {tuple(self.pixels.shape)}")

    def stamp(self, images: Tensor) -> Tensor:
        """Return copies of images (B, C, H, W) in [0, 1] with the pixels, which take gradients."""
        row, column = self.patch.corner(images.shape[2], images.shape[3])
        size = self.patch.size
        stamped = images.clone()
        stamped[:, :, row : row + size, column : column + size] = self.pixels.to(images)
        return stamped
