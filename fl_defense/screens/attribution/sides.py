"""The two sides of a round: along which direction do its replies differ most?

Clients who attack together teach the same, which nobody else does: if the others have similar data,
that is by far the largest difference between the replies of a round, whatever the model sent out
knows already. Honest replies alone differ in many directions alike, the more so the more their data
are alike.

Reference: that the first principal components of updates tell attackers from others is from
Tolpegin et al. (ESORICS 2020), who filter by them; here they only say between whom to search.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

FEWEST = 3
"""Replies that have two sides of which one is smaller."""


def smaller_side(
    replies: Sequence[Mapping[str, Tensor]],
    sent: Mapping[str, Tensor],
    names: Iterable[str],
    least_ratio: float,
) -> list[int] | None:
    """Return the indices of the replies on the smaller side of their first principal component.

    Of two sides of one size, the one that lies further from the mean.

    Args:
        replies: arrays of each.
        sent: the model sent out; replies are finite and have its names and shapes.
        names: what is compared, the weights; others may be of any type.
        least_ratio: variance along the first component over that along the second from which the
            replies have two sides.

    Returns:
        None, if there are fewer than three replies, or they differ in all directions alike.

    Example:
        >>> sent = {"weight": torch.zeros(2)}
        >>> replies = [{"weight": torch.tensor(row)} for row in ([1.0, 0], [1, 0.1], [9, 0])]
        >>> smaller_side(replies, sent, ["weight"], least_ratio=2)
        [2]
    """
    if len(replies) < FEWEST:
        return None
    products = torch.zeros(len(replies), len(replies), dtype=torch.float64)
    for name in names:
        rows = torch.stack([(arrays[name] - sent[name]).flatten() for arrays in replies])
        rows = rows.double()
        rows -= rows.mean(0)
        products += (rows @ rows.T).cpu()
    scale = float(products.diagonal().sum())
    if not 0 < scale < float("inf"):
        return None
    variances, components = torch.linalg.eigh(products / scale)
    if variances[-1] < least_ratio * variances[-2]:
        return None
    component = components[:, -1]
    above = [index for index, value in enumerate(component.tolist()) if value > 0]
    below = [index for index, value in enumerate(component.tolist()) if value <= 0]
    if len(above) != len(below):
        return min(above, below, key=len)
    return max(above, below, key=lambda side: float(component[side].square().sum()))
