"""Multi-Metrics: three distances at once, whitened, and the nearest replies are kept.

Idea: no one distance tells every attack in high dimensions. Of each update the sums of its cosine,
Manhattan and Euclidean distances to all others are taken. These three numbers are weighted by the
inverse of their covariance over the replies, so that none dominates by its scale, and the replies
of the lowest scores are kept.

Reference: Huang et al., "Multi-Metrics Adaptively Identifies Backdoors in Federated Learning",
ICCV 2023, arXiv 2303.06601. The share that is kept is the paper's.

Deviations: distances are over trained parameters, BatchNorm's statistics left aside. Where the
covariance is singular, its pseudoinverse is taken.

Needs: single replies, so no secure aggregation. Cost: all pairs of updates, twice.

Limits: it always leaves out the same share, of a round without attackers, too. Skewed data spread
honest updates, and who has rare data is left out in every round.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fl_defense.facts import Facts
from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.updates import (
    changes,
    cosines_of,
    inner_products,
    names_of_weights,
    norms_of,
    too_few,
)
from fl_defense.state import State
from fl_defense.validation import require, require_at_least, require_declared


@dataclass(frozen=True, kw_only=True)
class MultiMetrics(Screen):
    """Keep the replies whose updates lie nearest to the others by three distances at once.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> from fl_defense.screens import Reply
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> sent = {name: value.clone() for name, value in spec.build().state_dict().items()}
        >>> replies = [
        ...     Reply(node=node, arrays={k: v + s for k, v in sent.items()}, num_examples=10.0)
        ...     for node, s in enumerate((1.0, 1.1, 1.3, 1.6, -9.0))
        ... ]
        >>> shown = ScreenedRound(number=1, sent=sent, replies=replies)
        >>> said = MultiMetrics(kept=0.6).screen(shown, spec, device=torch.device("cpu"))
        >>> said.verdicts[4].weight
        0.0
    """

    kept: float = 0.3
    """Share of the replies that is kept (the paper's p), rounded up, in (0, 1]."""
    least_replies: int = 4
    """Fewest replies that are compared, at least 4, for three numbers of fewer have no covariance;
    with fewer the model sent out stays."""

    facts: ClassVar[Facts] = Facts(
        needs="single updates: no secure aggregation; an honest majority",
        changes="all but the replies nearest to the others, which are left out",
        cost="inner products and absolute differences of all pairs of updates",
        paper="Huang et al., ICCV 2023, arXiv 2303.06601",
        limits="leaves out the same share of every round, attacked or not",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require(0 < self.kept <= 1, "kept", "in (0, 1]", self.kept)
        require_at_least(self, least_replies=4)

    def screen(
        self,
        shown: ScreenedRound,
        spec: ModelSpec,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Screening:
        """Judge the replies of a round; the score is the whitened length of the three sums."""
        del device, state
        few = too_few(shown, self.least_replies)
        if few is not None:
            return few
        scores = whitened(sums_of_distances(shown, names_of_weights(spec)))
        num = math.ceil(self.kept * len(shown.replies))
        kept = set(scores.argsort(stable=True)[:num].tolist())
        verdicts = [
            Verdict(score=score)
            if place in kept
            else Verdict(
                weight=0.0,
                score=score,
                reason=f"score {score:.3g} is not among the {num} lowest",
            )
            for place, score in enumerate(scores.tolist())
        ]
        return Screening(verdicts=tuple(verdicts), details={"kept": num})


def sums_of_distances(shown: ScreenedRound, names: frozenset[str]) -> Tensor:
    """Return each update's cosine, Manhattan and Euclidean distances to all others, (N, 3)."""
    products = inner_products(shown, names)
    squares = norms_of(products).square()
    euclidean = (squares[:, None] + squares[None, :] - 2 * products).clamp_min(0).sqrt()
    manhattan = torch.zeros_like(products)
    for block in changes(shown, names):
        manhattan += torch.cdist(block, block, p=1)
    cosine = 1 - cosines_of(products)
    return torch.stack([each.sum(1) for each in (cosine, manhattan, euclidean)], 1)


def whitened(sums: Tensor) -> Tensor:
    """Return the lengths of vectors (N, 3), weighted by the inverse of their covariance, (N,)."""
    # The lengths do not depend on units; in units of each spread the inverse is well behaved.
    spreads = sums.std(0)
    scaled = sums / torch.where(spreads > 0, spreads, torch.ones_like(spreads))
    inverse = torch.linalg.pinv(torch.cov(scaled.T), hermitian=True)
    return torch.einsum("ni,ij,nj->n", scaled, inverse, scaled).clamp_min(0).sqrt()
