"""Handwritten digits that come with scikit-learn."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from fl_defense.model.spec import Pixels
from simulations.data.base import ImageData, ImageSource


@dataclass(frozen=True, kw_only=True)
class Digits(ImageSource):
    """The 1,797 handwritten digits that scikit-learn ships, enlarged from 8x8 to 16x16 pixels.

    1,437 train, 360 test, stratified; never downloads anything.

    Example:
        >>> Digits().input_shape, len(Digits().load().test_labels)
        ((1, 16, 16), 360)
    """

    input_shape: ClassVar[tuple[int, int, int]] = (1, 16, 16)
    num_classes: ClassVar[int] = 10
    pixels: ClassVar[Pixels] = Pixels(mean=(0.305,), std=(0.319,))

    def read(self) -> ImageData:
        """Read the digits from scikit-learn's package."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
        large = functional.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False)
        pixels = (large * 255).round().to(torch.uint8)
        train, test = train_test_split(
            np.arange(len(pixels)), test_size=360, random_state=0, stratify=digits.target
        )
        labels = torch.tensor(digits.target, dtype=torch.int64)
        return ImageData(
            train_images=pixels[train],
            train_labels=labels[train],
            test_images=pixels[test],
            test_labels=labels[test],
        )
