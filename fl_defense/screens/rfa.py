"""RFA: the geometric median in place of the mean.

Idea: the point with the smallest sum of distances to all updates does not follow a far one, as the
mean does. Weiszfeld's algorithm finds it by means whose weights are one over the distances, which
are smoothed near 0.

Reference: Pillutla, Kakade and Harchaoui, "Robust Aggregation for Federated Learning", IEEE
Transactions on Signal Processing 2022, arXiv 1912.13445. Defaults are the authors' code's.

Deviations: none in the median. It is a weighted mean of the replies, so this screen gives those
weights and leaves the mean to the strategy: around FedAvg the result is the geometric median.
Distances are over trained parameters; BatchNorm's statistics are averaged by the same weights.

Needs: single replies, so no secure aggregation; a strategy that weighs replies. Cost: inner
products of all pairs, of which every iteration is made.

Limits: nobody is left out. An attacker within the spread of honest updates counts as much as any.
A very far update still moves the mean after four steps: clip norms before, or take more steps.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fl_defense.facts import Facts
from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.updates import inner_products, names_of_weights, too_few
from fl_defense.state import State
from fl_defense.validation import require_at_least, require_declared, require_positive


@dataclass(frozen=True, kw_only=True)
class RFA(Screen):
    """Weigh replies so that their mean is the geometric median.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> from fl_defense.screens import Reply
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> sent = {name: value.clone() for name, value in spec.build().state_dict().items()}
        >>> replies = [
        ...     Reply(node=node, arrays={k: v + s for k, v in sent.items()}, num_examples=10.0)
        ...     for node, s in enumerate((1.0, 1.2, 900.0))
        ... ]
        >>> shown = ScreenedRound(number=1, sent=sent, replies=replies)
        >>> said = RFA().screen(shown, spec, device=torch.device("cpu"))
        >>> said.verdicts[2].weight < 0.1
        True
    """

    iterations: int = 4
    """Steps of Weiszfeld's algorithm, at most."""
    smoothing: float = 1e-5
    """Distances below this count as this (the paper's nu), in units of the weights."""
    tolerance: float = 1e-6
    """Relative fall of the sum of distances below which it ends."""
    least_replies: int = 3
    """Fewest replies that have a median, at least 3; with fewer the model sent out stays."""

    facts: ClassVar[Facts] = Facts(
        needs="single updates: no secure aggregation; a strategy that weighs replies",
        changes="weights of far replies",
        cost="inner products of all pairs of updates",
        paper="Pillutla et al., IEEE TSP 2022, arXiv 1912.13445",
        limits="leaves nobody out; attackers within the spread of honest updates count in full",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_positive(self, "smoothing")
        require_at_least(self, iterations=1, tolerance=0, least_replies=3)

    def screen(
        self,
        shown: ScreenedRound,
        spec: ModelSpec,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Screening:
        """Judge the replies of a round; the score is the distance from the geometric median."""
        del device, state
        few = too_few(shown, self.least_replies)
        if few is not None:
            return few
        products = inner_products(shown, names_of_weights(spec))
        examples = torch.tensor(
            [reply.num_examples for reply in shown.replies], dtype=torch.float64
        )
        factors, distances = self._weiszfeld(products, examples / examples.sum())
        return Screening(
            verdicts=tuple(
                Verdict(
                    weight=weight,
                    score=score,
                    reason="" if weight == 1 else f"lies {score:.3g} from the geometric median",
                    suspects=False,
                )
                for weight, score in zip(factors.tolist(), distances.tolist(), strict=True)
            )
        )

    def _weiszfeld(self, products: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return factors on the shares, the largest 1, and the distances from their mean.

        Args:
            products: inner products of all pairs of updates, (N, N).
            shares: of each reply in the plain mean, (N,), which sum to 1.
        """
        factors = torch.ones_like(shares)
        distances = _from_mean(products, shares)
        total = float(shares @ distances)
        for _ in range(self.iterations):
            inverse = 1 / distances.clamp_min(self.smoothing)
            factors = inverse / inverse.max()
            weighted = shares * factors
            distances = _from_mean(products, weighted / weighted.sum())
            before, total = total, float(shares @ distances)
            if before - total <= self.tolerance * before:
                break
        return factors, distances


def _from_mean(products: Tensor, shares: Tensor) -> Tensor:
    """Return the distances of vectors from their mean by shares that sum to 1, (N,)."""
    along = products @ shares
    return (products.diagonal() - 2 * along + shares @ along).clamp_min(0).sqrt()
