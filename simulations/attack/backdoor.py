"""A backdoor: a trigger, the images it is for, and the class that it should give them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

import torch
from torch import Tensor

from fl_defense.validation import require_declared
from simulations.attack.triggers.base import Trigger
from simulations.attack.triggers.patch import Patch

NEXT_CLASS: Final = "next-class"
"""The target of an all-to-all backdoor."""


@dataclass(frozen=True, kw_only=True)
class Backdoor:
    """What an attack plants and what every run measures: a trigger and the class it should cause.

    All-to-one with a target class, all-to-all with `next-class`, source-specific with `sources`.
    It is measured in runs without attackers too: there its success rate is the floor.

    Example:
        >>> images, labels = torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 2])
        >>> stamped, wanted = Backdoor(target=0, sources=(2,)).apply(images, labels, num_classes=3)
        >>> wanted.tolist()
        [0, 1, 0]
    """

    trigger: Trigger = field(default_factory=Patch)
    """What is put on an image."""
    target: int | Literal["next-class"] = 0
    """The class that triggered images should be given; next-class: the one after their own, and the
    first after the last (all-to-all)."""
    sources: tuple[int, ...] | None = None
    """Only images of these classes should be given it, others keep their class; null: all."""

    def __post_init__(self) -> None:
        require_declared(self)
        if isinstance(self.target, int) and self.target < 0:
            raise ValueError(f"target must be at least 0, got {self.target}")
        if self.sources is None:
            return
        if not self.sources or min(self.sources) < 0:
            raise ValueError(f"sources must be classes, got {list(self.sources)}")
        if self.target in self.sources:
            raise ValueError(f"sources must not hold the target {self.target}")

    def misfits(
        self, input_shape: tuple[int, int, int], num_classes: int
    ) -> Iterator[tuple[str, str]]:
        """Yield each field that does not fit images of (C, H, W) in so many classes, and why."""
        try:
            self.trigger.check(input_shape)
        except ValueError as error:
            yield "trigger", str(error)
        for name, classes in (("target", [self.target]), ("sources", self.sources or ())):
            strange = [label for label in classes if label not in (*range(num_classes), NEXT_CLASS)]
            if strange:
                yield (
                    name,
                    (
                        f"must be a class in 0..{num_classes - 1}, "
                        f"got {', '.join(map(str, strange))}; choose one of the data set's classes"
                    ),
                )

    def wanted(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the classes (N,) that images of these classes should be given when triggered.

        An image that should keep its class says nothing about the backdoor's success: those of the
        target class, and those outside the sources.
        """
        if self.target == NEXT_CLASS:
            moved = (labels + 1) % num_classes
        else:
            moved = torch.full_like(labels, self.target)
        return torch.where(self.is_source(labels), moved, labels)

    def is_source(self, labels: Tensor) -> Tensor:
        """Return (N,) booleans: does the backdoor mean images of these classes?"""
        if self.sources is None:
            return torch.ones_like(labels, dtype=torch.bool)
        return torch.isin(labels, labels.new_tensor(self.sources))

    def apply(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) in [0, 1] with the trigger, and the wanted classes (B,)."""
        return self.trigger.stamp(images), self.wanted(labels, num_classes)
