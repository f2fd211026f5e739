"""FreeEagle: is this model backdoored, and towards which class? Asked without any data.

Idea: cut the network at an inspection layer and optimise, for each class, features ("dummies")
that the classifier after the cut takes for that class. In a backdoored model the trigger's features
override all others, and so the target class leaks into the posteriors of other classes' dummies.

Reference: Fu et al., "FreeEagle: Detecting Complex Neural Trojans in Data-Free Cases", USENIX
Security 2023, arXiv 2302.14500; written from the description.

Deviations:
  1. The features' lower bound is what the extractor gives on procedural scenes (0 after a ReLU)
     instead of a table of network names.
  2. A score of single cells of the posterior matrix (`cell_anomaly`), for a backdoor of one source
     class, and an alarm that compares a federation's rounds with one another (`AnomalyHistory`):
     both are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.model_spec import ModelSpec
from fl_defense.sanitizers.base import frozen_copy
from fl_defense.surrogates import scenes

MAD_TO_DEVIATION = 1.4826
"""A normal distribution's standard deviation in units of its median absolute deviation."""
SMALLEST_ANOMALY = 1e-3
"""Anomalies below this count as this, for their logarithm."""
SMALLEST_SPREAD = 0.1
"""Least standard deviation of the logarithm of quiet rounds: a still past is not a precise one."""
NUM_PROBES = 64
"""Scenes that tell the shape and the lower bound of the features."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What `FreeEagle.inspect` found in one model of K classes."""

    posteriors: Tensor
    """(K, K), on the CPU: row s is the posterior of class s's dummy, its own class set to 0."""
    tendencies: Tensor
    """(K,): mean over the other classes' dummies of the posterior of each class."""
    anomaly: float
    """How far the largest tendency stands out, in interquartile ranges above the third quartile."""
    suspected_class: int
    """Class of the largest tendency: the backdoor's target, if there is one."""
    cell_anomaly: float
    """The same measure over single off-diagonal cells: high for one source and one target class."""
    suspected_source: int
    """Row of the largest cell."""
    dummies: Tensor
    """(K, n, ...): the dummies, from which the next round's inspection may start."""


@dataclass(frozen=True, kw_only=True)
class FreeEagle:
    """The inspection's settings; the defaults are the paper's.

    Raises:
        ValueError: if a value is out of its range.
    """

    dummies_per_class: int = 2
    """Dummies of a class, averaged before they are judged."""
    steps: int = 1000
    """Adam steps from scratch."""
    warm_steps: int = 150
    """Adam steps from the dummies of an earlier inspection."""
    learning_rate: float = 1e-2
    """Of Adam."""
    weight_decay: float = 5e-3
    """Adam's coupled L2: it drives what the class does not need to the lower bound."""

    def __post_init__(self) -> None:
        for name in ("dummies_per_class", "steps", "warm_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError(
                "learning_rate must be positive and weight_decay at least 0, "
                f"got {self.learning_rate} and {self.weight_decay}"
            )

    @classmethod
    def per_round(cls) -> Self:
        """Return a cheap inspection for every round of a federation."""
        return cls(steps=300, warm_steps=100)

    def inspect(
        self,
        model: nn.Module,
        spec: ModelSpec,
        *,
        seed: int = 0,
        earlier: Inspection | None = None,
    ) -> Inspection:
        """Inspect a model, which stays untouched, on its own device.

        Args:
            model: the suspect.
            spec: its structure; it is cut at `inspect_at`.
            seed: of the first dummies; the global random state stays as it is.
            earlier: an inspection of an earlier round's model, to start from its dummies.

        Raises:
            ValueError: if the model cannot be cut.
        """
        features, head = (part.eval() for part in spec.split(frozen_copy(model)))
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        probes = scenes(NUM_PROBES, spec.input_shape, generator=generator).to(device)
        with torch.no_grad():
            found = features(spec.pixels.normalize(probes))
        shape = (spec.num_classes, self.dummies_per_class, *found.shape[1:])
        if earlier is not None and earlier.dummies.shape == shape:
            start, steps = earlier.dummies.to(device), self.warm_steps
        else:
            start, steps = torch.rand(shape, generator=generator).to(device), self.steps
        floor = found.min().item()
        dummies = self._optimize(head, start, steps, floor if floor == 0 else None)
        with torch.no_grad():
            posteriors = head(dummies.mean(1)).softmax(1).cpu()
        return replace(judge(posteriors), dummies=dummies.cpu())

    def _optimize(self, head: nn.Module, start: Tensor, steps: int, floor: float | None) -> Tensor:
        """Minimise the summed cross-entropy of (K, n, ...) dummies towards their classes.

        Summed, for a mean would divide the gradient and so multiply the weight decay.
        """
        num_classes, copies = start.shape[:2]
        labels = torch.arange(num_classes, device=start.device).repeat_interleave(copies)
        dummies = start.flatten(0, 1).clone().requires_grad_(True)
        optimizer = torch.optim.Adam([dummies], self.learning_rate, weight_decay=self.weight_decay)
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(head(dummies), labels, reduction="sum").backward()
            optimizer.step()
            if floor is not None:
                dummies.data.clamp_(min=floor)
        return dummies.detach().view_as(start)


def judge(posteriors: Tensor) -> Inspection:
    """Score a posterior matrix (K, K): rows are the dummies' classes, columns the posteriors."""
    num_classes = len(posteriors)
    crossed = posteriors.double().clone().fill_diagonal_(0)
    tendencies = crossed.mean(0) * num_classes / (num_classes - 1)
    cells = crossed[~torch.eye(num_classes, dtype=torch.bool)]
    return Inspection(
        posteriors=crossed.float(),
        tendencies=tendencies.float(),
        anomaly=_outlier(tendencies),
        suspected_class=int(tendencies.argmax()),
        cell_anomaly=_outlier(cells),
        suspected_source=int(crossed.max(1).values.argmax()),
        dummies=torch.empty(0),
    )


def _outlier(values: Tensor) -> float:
    """(max - q3) / (q3 - q1), quartiles at whole positions of the sorted values (paper, M)."""
    ordered = values[values > 0].sort().values
    if len(ordered) == 0:
        return 0.0
    low, high = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    return float((ordered[-1] - high) / (high - low).clamp_min(1e-8))


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """When a round's inspection is an alarm: against a calibrated bound, or against the past.

    The bound comes from benign runs of the same task, see `calibrated_bound`. Without it, the past
    decides: the logarithm of the anomaly lies `deviations` robust standard deviations above the
    median of the quiet rounds before, and 2 of the last 3 rounds suspect the same class.
    """

    bound: float | None = None
    """Anomaly above which a round is an alarm at once; None: the past alone decides."""
    deviations: float = 3.5
    """Robust standard deviations above the median of quiet rounds."""
    window: int = 20
    """Quiet rounds that are remembered."""
    fewest: int = 4
    """Quiet rounds that it takes to compare with; before, the past raises no alarm."""

    def __post_init__(self) -> None:
        if self.deviations <= 0:
            raise ValueError(f"deviations must be positive, got {self.deviations}")
        if self.fewest < 2 or self.window < self.fewest:
            raise ValueError(
                f"fewest must be at least 2 and window at least fewest, got {self.fewest} and "
                f"{self.window}"
            )


@dataclass
class AnomalyHistory:
    """The inspections of a federation's rounds so far, and whether the last was an alarm."""

    alarm: Alarm
    """When to raise it."""
    quiet: list[float] = field(default_factory=list)
    """Logarithms of the anomalies of rounds without alarm, oldest first."""
    suspected: list[int] = field(default_factory=list)
    """Suspected classes of the last three rounds."""

    def add(self, inspection: Inspection) -> bool:
        """Take in a round's inspection; return whether it is an alarm.

        A round with an alarm does not become part of the past that later rounds are compared with.
        """
        logarithm = math.log(max(inspection.anomaly, SMALLEST_ANOMALY))
        self.suspected = [*self.suspected[-2:], inspection.suspected_class]
        alarmed = self._above_bound(inspection.anomaly) or self._stands_out(logarithm)
        if not alarmed:
            self.quiet = [*self.quiet, logarithm][-self.alarm.window :]
        return alarmed

    def _above_bound(self, anomaly: float) -> bool:
        return self.alarm.bound is not None and anomaly > self.alarm.bound

    def _stands_out(self, logarithm: float) -> bool:
        if self.alarm.bound is not None or len(self.quiet) < self.alarm.fewest:
            return False
        center = median(self.quiet)
        spread = MAD_TO_DEVIATION * median(abs(value - center) for value in self.quiet)
        again = self.suspected.count(self.suspected[-1]) >= 2
        return again and logarithm - center > self.alarm.deviations * max(spread, SMALLEST_SPREAD)


def calibrated_bound(benign: Sequence[float], false_positive_rate: float = 0.05) -> float:
    """Return the anomaly that this share of benign models exceeds.

    Args:
        benign: anomalies of models of the same task, trained without attackers.
        false_positive_rate: share of benign models that may raise an alarm, in (0, 1).

    Raises:
        ValueError: if there are too few models for the rate.
    """
    if not 0 < false_positive_rate < 1 or len(benign) * false_positive_rate < 1:
        raise ValueError(
            f"a false-positive rate of {false_positive_rate} needs at least "
            f"1 / rate benign models, got {len(benign)}"
        )
    above = int(len(benign) * false_positive_rate)
    return sorted(benign)[-above - 1]
