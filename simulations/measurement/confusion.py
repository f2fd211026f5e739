"""Which class images of each class are put into, before and after the repair of one round."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

Matrix = list[list[int]]
"""Counts of images: a row for each true class, a column for each class answered."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """The matrices of one round, by what is shown: "clean" and "triggered" test images."""

    round: int
    before: Mapping[str, Matrix]
    """Of the aggregate."""
    after: Mapping[str, Matrix]
    """Of the released model."""

    def to_json(self) -> str:
        """Return what a results folder holds."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return what a file holds, or None if there is none.

        Raises:
            ValueError: if it holds something else.
        """
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except TypeError as error:
            raise ValueError(f"{path}: is no confusion of a round ({error})") from error


def count(labels: Tensor, predicted: Tensor, num_classes: int) -> Matrix:
    """Return how many images of each class (rows) got each answer (columns).

    >>> count(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2)
    [[1, 1], [0, 1]]
    """
    flat = labels.cpu() * num_classes + predicted.cpu()
    counts: Matrix = torch.bincount(flat, minlength=num_classes**2).view(num_classes, -1).tolist()
    return counts
