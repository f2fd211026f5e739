"""FoolsGold: who always moves like another is a sybil.

Idea: honest clients have data of their own, sybils share one aim. The updates of every node are
added up over the rounds. The more a node's sum points like that of another, the less its replies
weigh; who is only like a sybil, and less so than the sybil, is pardoned. A logit drives the weights
towards 0 and 1.

Reference: Fung, Yoon and Beschastnikh, "The Limitations of Federated Learning in Sybil Settings",
RAID 2020, arXiv 1808.04866. The confidence of 1 is the paper's.

Deviations: the paper weighs features by their importance in the output layer; here the output
layer's parameters are the features. Weights are factors on numbers of examples in a mean, not of a
sum. Negative cosines count as 0. BatchNorm's statistics are no update.

Needs: single replies of the same nodes over several rounds, so no secure aggregation. Cost: inner
products of all pairs, and one output layer in memory and in the checkpoint for each node.

Limits: it is blind to a single attacker. On even data honest clients move alike, too, and are taken
for sybils; then every reply may be left out. Attackers whose updates differ pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fl_defense.facts import Facts
from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.output_layer import names_of_output_layer
from fl_defense.screens.updates import change, cosines_of, names_of_weights, too_few
from fl_defense.state import State
from fl_defense.validation import require_at_least, require_declared, require_positive

LARGEST_WEIGHT = 0.99
"""A weight of 1 is taken for this, whose logit is finite."""
LARGEST_SUM = 1e140
"""Sums are cut off here, so that their squares stay finite."""


@dataclass(frozen=True)
class History:
    """What nodes have changed so far."""

    sums: Mapping[int, Tensor]
    """The sum of each node's updates, flat, in float64."""
    seen: Mapping[int, int]
    """The round of each node's last reply."""


@dataclass(frozen=True, kw_only=True)
class FoolsGold(Screen):
    """Reduce the weights of nodes whose updates, added up over the rounds, point alike.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> from fl_defense.screens import Reply
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> sent = {name: value.clone() for name, value in spec.build().state_dict().items()}
        >>> def moved(seed):
        ...     draw = torch.Generator().manual_seed(seed)
        ...     return {
        ...         k: v + torch.randn(v.shape, generator=draw) if v.dtype == torch.float32 else v
        ...         for k, v in sent.items()
        ...     }
        >>> replies = [
        ...     Reply(node=node, arrays=moved(seed), num_examples=10.0)
        ...     for node, seed in enumerate((1, 2, 3, 3))
        ... ]
        >>> shown = ScreenedRound(number=1, sent=sent, replies=replies)
        >>> said = FoolsGold().screen(shown, spec, device=torch.device("cpu"))
        >>> [verdict.weight for verdict in said.verdicts]
        [1.0, 1.0, 0.0, 0.0]
    """

    confidence: float = 1.0
    """Factor on the logit (the paper's kappa); the larger, the nearer weights are to 0 and 1."""
    features: Literal["output", "all"] = "output"
    """What is compared: the parameters of the output layer, or all; these are kept for each node.
    """
    most_nodes: int = 1000
    """Nodes that are remembered; those not seen for longest are forgotten first."""
    least_replies: int = 2
    """Fewest replies that are compared, at least 2; with fewer the model sent out stays."""

    facts: ClassVar[Facts] = Facts(
        needs="single updates of the same nodes over rounds: no secure aggregation; sybils",
        changes="weights of nodes that move alike",
        cost="inner products of all pairs; an output layer kept for each node",
        paper="Fung et al., RAID 2020, arXiv 1808.04866",
        limits="a single attacker; on even data honest nodes are taken for sybils",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_positive(self, "confidence")
        require_at_least(self, most_nodes=1, least_replies=2)

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse networks without an output layer, if that is what is compared.

        Raises:
            ValueError: if there is none.
        """
        if self.features == "output":
            names_of_output_layer(model, spec)

    def screen(
        self,
        shown: ScreenedRound,
        spec: ModelSpec,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Screening:
        """Judge the replies of a round; the score is the largest cosine with another, pardoned.

        Raises:
            ValueError: if the state is damaged or was written with other settings.
        """
        del device
        names = (
            names_of_weights(spec)
            if self.features == "all"
            else names_of_output_layer(spec.build(), spec)
        )
        history = self._added(shown, names, _read(state, shown, names))
        few = too_few(shown, self.least_replies)
        if few is not None:
            return replace(few, state=_written(history))
        nodes = [reply.node for reply in shown.replies]
        rows = torch.stack([history.sums[node] for node in nodes])
        likeness = pardoned(cosines_of(rows @ rows.T))
        verdicts = [
            Verdict(
                weight=weight,
                score=score,
                reason="" if weight == 1 else f"moves like another: cosine {score:.3g}",
            )
            for weight, score in zip(
                self._weights(likeness).tolist(), likeness.tolist(), strict=True
            )
        ]
        return Screening(verdicts=tuple(verdicts), state=_written(self._bounded(history)))

    def _weights(self, likeness: Tensor) -> Tensor:
        """Return factors in [0, 1] from the largest cosines, (N,)."""
        weights = (1 - likeness).clamp(0, 1)
        weights = weights / weights.max().clamp_min(torch.finfo(torch.float64).tiny)
        weights = weights.clamp(0, LARGEST_WEIGHT)
        return (self.confidence * (torch.logit(weights) + 0.5)).clamp(0, 1)

    def _added(self, shown: ScreenedRound, names: frozenset[str], history: History) -> History:
        """Return the history with the updates of the round."""
        sums, seen = dict(history.sums), dict(history.seen)
        for reply in shown.replies:
            parts = [change(reply, shown.sent, name).flatten() for name in _in_order(shown, names)]
            update = torch.cat(parts)
            total = sums[reply.node] + update if reply.node in sums else update
            sums[reply.node] = total.clamp(-LARGEST_SUM, LARGEST_SUM)
            seen[reply.node] = shown.number
        return History(sums, seen)

    def _bounded(self, history: History) -> History:
        """Return the history of the nodes that were seen last."""
        kept = sorted(history.seen, key=lambda node: history.seen[node])[-self.most_nodes :]
        return History(
            {node: history.sums[node] for node in kept}, {node: history.seen[node] for node in kept}
        )


def pardoned(cosines: Tensor) -> Tensor:
    """Return the largest cosine of each node with another, (N,), after pardoning.

    Who is like a node that is more like a third is pardoned in proportion.

    Args:
        cosines: of all pairs, (N, N).
    """
    cosines = cosines.clamp_min(0).clone().fill_diagonal_(0)
    largest = cosines.max(1).values
    mine, other = largest[:, None], largest[None, :]
    ratio = torch.where(other > mine, mine / other, torch.ones_like(cosines))
    return (cosines * ratio).max(1).values


def _in_order(shown: ScreenedRound, names: frozenset[str]) -> list[str]:
    return [name for name in shown.sent if name in names]


def _written(history: History) -> State:
    return {
        "sums": {str(node): each for node, each in history.sums.items()},
        "seen": {str(node): number for node, number in history.seen.items()},
    }


def _read(state: State | None, shown: ScreenedRound, names: frozenset[str]) -> History:
    """Return the history of a state.

    Raises:
        ValueError: if it is damaged or of another network.
    """
    if state is None:
        return History({}, {})
    size = sum(shown.sent[name].numel() for name in _in_order(shown, names))
    sums, seen = state.get("sums"), state.get("seen")
    if not isinstance(sums, Mapping) or not isinstance(seen, Mapping) or sums.keys() != seen.keys():
        raise ValueError("state: must hold sums and seen of the same nodes")
    for node, total in sums.items():
        if not _is_sum(total, size) or not str(node).isdecimal() or type(seen[node]) is not int:
            raise ValueError(f"state: of node {node} must be {size} finite numbers and a round")
    return History(
        {int(node): total for node, total in sums.items()},
        {int(node): number for node, number in seen.items()},
    )


def _is_sum(total: Any, size: int) -> bool:
    is_vector = isinstance(total, Tensor) and total.dtype == torch.float64
    return is_vector and total.shape == (size,) and bool(total.isfinite().all())
