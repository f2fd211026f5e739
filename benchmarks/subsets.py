"""Data sets made from others: fewer classes, other sizes, and more classes by turning."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fl_defense.model.spec import Pixels
from simulations.data import ImageData, ImageSource


@dataclass(frozen=True, kw_only=True)
class Subset(ImageSource):
    """Some classes of a data set; with turns each class becomes four."""

    of: ImageSource
    """The data set, in the size wanted."""
    classes: tuple[int, ...]
    """Its classes that are kept, which become 0, 1, ... in this order."""
    turned: bool = False
    """Each image also by 90, 180 and 270 degrees, in classes of their own: 4 K classes."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.of.input_shape

    @property
    def num_classes(self) -> int:
        """Of those kept, times four if turned."""
        return len(self.classes) * (4 if self.turned else 1)

    @property
    def pixels(self) -> Pixels:
        """As of the whole data set."""
        return self.of.pixels

    def read(self) -> ImageData:
        """Read the data set and keep what is wanted."""
        data = self.of.read()
        train = self._some(data.train_images, data.train_labels)
        test = self._some(data.test_images, data.test_labels)
        return ImageData(
            train_images=train[0], train_labels=train[1], test_images=test[0], test_labels=test[1]
        )

    def _some(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        kept = torch.isin(labels, torch.tensor(self.classes))
        images, labels = images[kept], labels[kept]
        labels = (labels[:, None] == torch.tensor(self.classes)).long().argmax(1)
        if not self.turned:
            return images, labels
        turns = [images.rot90(turn, (2, 3)) for turn in range(4)]
        return torch.cat(turns), torch.cat([4 * labels + turn for turn in range(4)])
