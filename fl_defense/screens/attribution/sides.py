"""The two sides of a round: along which direction do its replies differ most?

Clients who attack together teach the same, which nobody else does: of iid data, that is the largest
difference between the replies of a round, whatever their model was sent with. Of data that are not
alike it may be another one.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

FEWEST = 3
"""Replies that have two sides of which one is smaller."""


def smaller_side(
    replies: Sequence[Mapping[str, Tensor]], sent: Mapping[str, Tensor], names: Iterable[str]
) -> list[int] | None:
    """Return the indices of the replies on the smaller side of their first principal component.

    Of two sides of one size, the one that lies further from the mean.

    Args:
        replies: arrays of each.
        sent: the model sent out; replies are finite and have its names and shapes.
        names: what is compared, the weights; others may be of any type.

    Returns:
        None, if there are fewer than three replies or all are the same.

    Example:
        >>> sent = {"weight": torch.zeros(2)}
        >>> replies = [{"weight": torch.tensor(row)} for row in ([1.0, 0], [1, 0.1], [9, 0])]
        >>> smaller_side(replies, sent, ["weight"])
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
    component = torch.linalg.eigh(products / scale).eigenvectors[:, -1]
    above = [index for index, value in enumerate(component.tolist()) if value > 0]
    below = [index for index, value in enumerate(component.tolist()) if value <= 0]
    if len(above) != len(below):
        return min(above, below, key=len)
    return max(above, below, key=lambda side: float(component[side].abs().sum()))
