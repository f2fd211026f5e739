"""How much one reply may count: `num-examples` is whatever a client says.

Two rules, after Portnoy et al., "Towards Federated Learning With Byzantine-Robust Client
Weighting", 2020, arXiv 2004.04986, which truncates weights so that no few clients own the average:

1. A claim that nobody can have is dropped: above `max_weight`, or, where there are at least three
   replies, above `max_weight_ratio` times the median of the others. Of two replies none can say
   which one lies: were the larger dropped, a client that claims one example would own the model.
2. A reply that has more than `max_share` of the round's weight is kept and counts for less: for
   that share, or for twice the mean of the others where they are few.
"""

import statistics
from collections.abc import Sequence


def implausible_weights(
    weights: Sequence[float], *, name: str, max_weight: float, max_ratio: float
) -> list[str | None]:
    """Return for each weight why its reply is dropped, with the argument that would admit it."""
    return [
        _implausible(weight, [*weights[:index], *weights[index + 1 :]], name, max_weight, max_ratio)
        for index, weight in enumerate(weights)
    ]


def _implausible(
    weight: float, others: Sequence[float], name: str, max_weight: float, max_ratio: float
) -> str | None:
    if weight > max_weight:
        return (
            f"{name} {weight:g} is above {max_weight:g}; "
            f"ReplyCheck(max_weight={weight:g}) would admit it"
        )
    believable = [other for other in others if other <= max_weight]
    if len(believable) < 2:
        return None
    median = statistics.median(believable)
    if weight <= max_ratio * median:
        return None
    return (
        f"{name} {weight:g} is above {max_ratio:g} times the median of the others, {median:g}; "
        f"ReplyCheck(max_weight_ratio={weight / median:.3g}) would admit it"
    )


def weight_limit(weights: Sequence[float], max_share: float) -> float:
    """Return the largest weight that a reply may have, so that none owns the average.

    With `k` replies cut to the limit `w` and `rest` for the sum of the others, w is max_share of
    k w + rest. Twice the mean of the others is always granted: two replies cannot have less than
    half each.

    Args:
        weights: positive, of one round.
        max_share: in (0, 1]; 1: no limit.
    """
    ordered = sorted(weights, reverse=True)
    if max_share == 1 or len(ordered) < 2:
        return ordered[0] if ordered else 0.0
    for num_cut in range(1, len(ordered)):
        rest = sum(ordered[num_cut:])
        left = 1 - num_cut * max_share
        limit = 2 * rest / (len(ordered) - num_cut)
        if left > 0:
            limit = max(limit, max_share * rest / left)
        if ordered[num_cut] <= limit:
            break
    return limit
