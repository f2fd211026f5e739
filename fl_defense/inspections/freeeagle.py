"""FreeEagle: is this model backdoored, and towards which class? Asked without any data.

Idea: cut the network at an inspection layer and optimise, for each class, features ("dummies")
that the classifier after the cut takes for that class. In a backdoored model the trigger's features
override all others, and so the target class leaks into the posteriors of other classes' dummies.

Reference: Fu et al., "FreeEagle: Detecting Complex Neural Trojans in Data-Free Cases", USENIX
Security 2023, arXiv 2302.14500; written from the description.

Deviations:
  1. Features are kept from falling below 0 if the extractor gives none below 0 on procedural
     scenes, instead of by a table of network names.
  2. A score of single cells of the posterior matrix (`cell_anomaly`), for a backdoor of one source
     class, is ours.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.facts import Facts
from fl_defense.inspections.base import Inspection
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import frozen_copy
from fl_defense.progress import counted
from fl_defense.state import State
from fl_defense.surrogates.scenes import scenes
from fl_defense.validation import require_at_least, require_declared, require_positive


@dataclass(frozen=True, kw_only=True)
class FreeEagleFinding:
    """What FreeEagle found in one model of K classes."""

    posteriors: Tensor
    """(K, K), on the CPU: row s is the posterior of class s's dummy, its own class set to 0."""
    tendencies: Tensor
    """(K,): mean over the other classes' dummies of the posterior of each class."""
    anomaly: float
    """How far the largest tendency stands out, in interquartile ranges above the third quartile;
    `cell_anomaly` where there are fewer than `fewest_classes`, for their quartiles say nothing."""
    suspected_class: int
    """Class of the largest tendency: the backdoor's target, if there is one."""
    cell_anomaly: float
    """The same measure over single off-diagonal cells: high for one source and one target class."""
    suspected_source: int
    """Row of the largest cell."""
    dummies: Tensor
    """(K, n, ...): the dummies, from which the next round's inspection may start."""

    @property
    def kind(self) -> str:
        """Of a class, not of a pattern: what triggers it is not looked for."""
        return "tendency"

    @property
    def is_certain(self) -> bool:
        """Never: the anomaly is for the alarm to judge."""
        return False

    @property
    def state(self) -> State:
        """What the next round's inspection may start from."""
        return {"dummies": self.dummies}


@dataclass(frozen=True, kw_only=True)
class FreeEagle(Inspection):
    """The inspection's settings; the defaults are the paper's.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> found = FreeEagle(dummies_per_class=2, steps=2).inspect(spec.build().eval(), spec)
        >>> found.posteriors.shape
        torch.Size([3, 3])
    """

    dummies_per_class: int = 2
    """Dummies of a class, averaged before they are judged."""
    steps: int = 1000
    """Adam steps from scratch."""
    warm_steps: int = 150
    """Adam steps from the dummies of an earlier inspection."""
    dummy_lr: float = 1e-2
    """Of Adam."""
    weight_decay: float = 5e-3
    """Adam's coupled L2: it drives what the class does not need to the lower bound."""
    num_probes: int = 64
    """Scenes that tell the shape and the lower bound of the features."""
    fewest_classes: int = 8
    """With fewer classes the anomaly is that of single cells: quartiles of so few say nothing."""

    facts: ClassVar[Facts] = Facts(
        needs="a network that can be cut in two",
        cost="1,000 steps of the head, 150 when warm",
        paper="Fu et al., USENIX Security 2023, arXiv 2302.14500",
        limits="tells no pattern, and its anomaly has no bar that holds for every task",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, dummies_per_class=1, steps=1, warm_steps=1, weight_decay=0)
        require_at_least(self, num_probes=1, fewest_classes=2)
        require_positive(self, "dummy_lr")

    @classmethod
    def per_round(cls) -> Self:
        """Return a cheap inspection for every round of a federation."""
        return cls(steps=300, warm_steps=100)

    @classmethod
    def presets(cls) -> dict[str, Self]:
        """Return the presets by the name that a scenario gives."""
        return {"paper": cls(), "per-round": cls.per_round()}

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse networks that cannot be cut.

        Raises:
            ValueError: if the model cannot be cut.
        """
        spec.split(model)

    def inspect(
        self,
        model: nn.Module,
        spec: ModelSpec,
        *,
        seed: int = 0,
        state: State | None = None,
    ) -> FreeEagleFinding:
        """Inspect a model, which stays untouched, on its own device.

        Args:
            model: the suspect.
            spec: its structure; it is cut at `inspect_at`.
            seed: of the first dummies; the global random state stays as it is.
            state: of an earlier round's inspection, to start from; dummies of another shape are
                left aside.

        Raises:
            ValueError: if the model cannot be cut.
        """
        features, head = (part.eval() for part in spec.split(frozen_copy(model)))
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        probes = scenes(self.num_probes, spec.input_shape, generator=generator).to(device)
        with torch.no_grad():
            found = features(spec.pixels.normalize(probes))  # (P, ...)
        shape = (spec.num_classes, self.dummies_per_class, *found.shape[1:])
        dummies = None if state is None else state.get("dummies")
        if dummies is not None and dummies.shape == shape:
            start, steps = dummies.to(device), self.warm_steps
        else:
            start, steps = torch.rand(shape, generator=generator).to(device), self.steps
        floor = found.min().item()
        optimized = self._optimize(head, start, steps, 0.0 if floor >= 0 else None)  # (K, D, ...)
        with torch.no_grad():
            posteriors = head(optimized.mean(1)).softmax(1).cpu()  # (K, K)
        return replace(judge(posteriors, self.fewest_classes), dummies=optimized.cpu())

    def _optimize(self, head: nn.Module, start: Tensor, steps: int, floor: float | None) -> Tensor:
        """Minimise the summed cross-entropy of (K, n, ...) dummies towards their classes.

        Summed, for a mean would divide the gradient and so multiply the weight decay.
        """
        num_classes, copies = start.shape[:2]
        labels = torch.arange(num_classes, device=start.device).repeat_interleave(copies)
        dummies = start.flatten(0, 1).clone().requires_grad_(True)  # (K * D, ...)
        optimizer = torch.optim.Adam([dummies], self.dummy_lr, weight_decay=self.weight_decay)
        for _ in counted("moving features of classes", range(steps)):
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(head(dummies), labels, reduction="sum").backward()
            optimizer.step()
            if floor is not None:
                dummies.data.clamp_(min=floor)
        return dummies.detach().view_as(start)


def judge(posteriors: Tensor, fewest_classes: int = 8) -> FreeEagleFinding:
    """Score a posterior matrix (K, K): rows are the dummies' classes, columns the posteriors."""
    num_classes = len(posteriors)
    crossed = posteriors.double().clone().fill_diagonal_(0)  # (K, K)
    tendencies = crossed.mean(0) * num_classes / (num_classes - 1)  # (K,)
    cell_anomaly = _outlier(crossed[~torch.eye(num_classes, dtype=torch.bool)])
    return FreeEagleFinding(
        posteriors=crossed.float(),
        tendencies=tendencies.float(),
        anomaly=_outlier(tendencies) if num_classes >= fewest_classes else cell_anomaly,
        suspected_class=int(tendencies.argmax()),
        cell_anomaly=cell_anomaly,
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
