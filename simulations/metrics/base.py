"""What a metric is: one rate of a model on test images, and how it is shown."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Triggered:
    """What a model says of the test images with the trigger of one backdoor; all are (N,).

    Example:
        >>> import torch
        >>> labels = torch.tensor([1, 2])
        >>> said = Triggered(
        ...     predicted=torch.tensor([0, 2]),
        ...     labels=labels,
        ...     wanted=torch.tensor([0, 0]),
        ...     is_source=labels > 0,
        ... )
        >>> (said.predicted == said.wanted).tolist()
        [True, False]
    """

    predicted: Tensor
    """Classes that the model gives the triggered images."""
    labels: Tensor
    """Their true classes."""
    wanted: Tensor
    """The classes that the backdoor should give them."""
    is_source: Tensor
    """Booleans: are they of a class that the backdoor means?"""


class Metric(ABC):
    """One rate in [0, 1] with its name: a frozen dataclass whose fields are its settings.

    Derive from `CleanMetric` or `BackdoorMetric`. A scenario names it under `metrics`.

    Example:
        >>> from simulations.metrics import METRICS
        >>> METRICS["accuracy"].title
        'accuracy'
    """

    name: ClassVar[str]
    """In every file, as Python spells it."""
    title: ClassVar[str]
    """In a sentence or a legend."""
    column: ClassVar[str] = ""
    """Head of its column in the table of rounds; empty: it has none."""
    in_table: ClassVar[tuple[str, ...]] = ("released",)
    """Stages whose rates stand in that column, with an arrow between them."""
    in_picture: ClassVar[tuple[str, ...]] = ()
    """Stages whose curves are drawn."""
    color: ClassVar[str] = "tab:gray"
    """Of its curves, in matplotlib's words."""


class CleanMetric(Metric):
    """A rate on test images as they are.

    Example:
        >>> import torch
        >>> from simulations.metrics import Accuracy
        >>> Accuracy().measure(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 2, 1]))
        0.75
    """

    @abstractmethod
    def measure(self, predicted: Tensor, labels: Tensor) -> float:
        """Return the rate.

        Args:
            predicted: (N,) classes that the model gives.
            labels: (N,) true classes.
        """


class BackdoorMetric(Metric):
    """A rate on test images with a trigger; a run with several backdoors has their mean.

    Example:
        >>> import torch
        >>> from simulations.metrics import AttackSuccessRate
        >>> labels = torch.tensor([1, 2])
        >>> said = Triggered(
        ...     predicted=torch.tensor([0, 2]),
        ...     labels=labels,
        ...     wanted=torch.tensor([0, 0]),
        ...     is_source=labels > 0,
        ... )
        >>> AttackSuccessRate().measure(said)
        0.5
    """

    @abstractmethod
    def measure(self, triggered: Triggered) -> float | None:
        """Return the rate of one backdoor, or None where the backdoor has no such rate."""
