"""FLAME: cluster the directions of the updates, clip to the median norm, add a little noise.

Idea: updates of most clients point about the same way. Of the cosine distances between updates,
HDBSCAN takes the cluster of more than half of the replies; the others are left out. What is kept is
clipped to the median norm of all replies, and Gaussian noise in proportion to that norm blurs what
passed both.

Reference: Nguyen et al., "FLAME: Taming Backdoors in Federated Learning", USENIX Security 2022,
arXiv 2101.02281. Defaults are the paper's.

Deviations: distances and norms are over trained parameters, BatchNorm's statistics left aside. The
noise is drawn once and added to every reply that is kept, so that their mean has it once.

Needs: single replies, so no secure aggregation; scikit-learn. Cost: inner products of all pairs.

Limits: it needs an honest majority that moves one way. Skewed data spread honest updates, and of
those a good part is left out; even on even data HDBSCAN may keep hardly more than half. An attacker
who stays near the honest direction passes. Where two halves move apart, HDBSCAN sees one sparse
cluster and all are kept. The noise costs accuracy.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fl_defense.facts import Facts
from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.clusters import hdbscan, require_hdbscan
from fl_defense.screens.updates import (
    cosines_of,
    edited,
    inner_products,
    median_of,
    names_of_weights,
    noise_for,
    norms_of,
    too_few,
)
from fl_defense.state import State
from fl_defense.validation import require_at_least, require_declared


@dataclass(frozen=True, kw_only=True)
class FLAME(Screen):
    """Keep the cluster of most directions, clip to the median norm, and add noise.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> from fl_defense.screens import Reply
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> sent = {name: value.clone() for name, value in spec.build().state_dict().items()}
        >>> replies = [
        ...     Reply(node=node, arrays={k: v + s for k, v in sent.items()}, num_examples=10.0)
        ...     for node, s in enumerate((1, 1, 1, -1))
        ... ]
        >>> shown = ScreenedRound(number=1, sent=sent, replies=replies)
        >>> screening = FLAME().screen(shown, spec, device=torch.device("cpu"))
        >>> [verdict.weight for verdict in screening.verdicts]
        [1.0, 1.0, 1.0, 0.0]
    """

    noise: float = 0.001
    """Standard deviation of the noise as a share of the median norm (the paper's lambda); 0: none.
    """
    least_replies: int = 3
    """Fewest replies that are compared, at least 3; with fewer the model sent out stays."""

    facts: ClassVar[Facts] = Facts(
        needs="single updates: no secure aggregation; scikit-learn; an honest majority",
        changes="replies outside the largest cluster, which are left out; the rest is clipped and "
        "gets noise",
        cost="inner products of all pairs of updates",
        paper="Nguyen et al., USENIX Security 2022, arXiv 2101.02281",
        limits="leaves out many honest clients where data are skewed; attackers near the honest "
        "direction pass",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, noise=0, least_replies=3)

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse to work without scikit-learn.

        Raises:
            ValueError: if it is not installed.
        """
        del model, spec
        require_hdbscan(self)

    def screen(
        self,
        shown: ScreenedRound,
        spec: ModelSpec,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Screening:
        """Judge the replies of a round; the score is the median cosine distance to the others."""
        del device, state
        few = too_few(shown, self.least_replies)
        if few is not None:
            return few
        names, num = names_of_weights(spec), len(shown.replies)
        products = inner_products(shown, names)
        distances = 1 - cosines_of(products)
        clusters = hdbscan(distances, min_cluster_size=num // 2 + 1)
        norms = norms_of(products).tolist()
        bound = median_of(norms)
        noise = noise_for(shown.sent, names, self.noise * bound) if self.noise > 0 else None
        verdicts = []
        for place, (reply, norm) in enumerate(zip(shown.replies, norms, strict=True)):
            score = median_of([d for k, d in enumerate(distances[place].tolist()) if k != place])
            if clusters[place] != 0:
                reason = f"points away from most replies: median cosine distance {score:.3g}"
                verdicts.append(Verdict(weight=0.0, score=score, reason=reason))
                continue
            factor = min(1.0, bound / norm) if norm > 0 else 1.0
            if factor == 1 and noise is None:
                verdicts.append(Verdict(score=score))
                continue
            clipped = f"update of norm {norm:.3g} was clipped to {bound:.3g}" if factor < 1 else ""
            arrays = edited(reply, shown.sent, names, factor, noise)
            verdicts.append(Verdict(score=score, reason=clipped, arrays=arrays))
        return Screening(
            verdicts=tuple(verdicts),
            details={"max_norm": bound, "noise": self.noise * bound, "cluster": clusters.count(0)},
        )
