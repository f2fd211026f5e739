"""The two sides of a round: along which direction do its replies differ most?

Clients who attack together teach the same, which nobody else does: if the others have similar data,
that is by far the largest difference between the replies of a round, whatever the model sent out
knows already. Honest replies alone differ in many directions alike, the more so the more their data
are alike.

Reference: that the first principal components of updates tell attackers from others is from
Tolpegin et al. (ESORICS 2020), who filter by them; here they only say between whom to search.
"""

import torch
from torch import Tensor

FEWEST = 3
"""Replies that have two sides of which one is smaller."""
SMALLEST_SHARE = 1e-9
"""Variance along the first component, over the sum of squares, below which replies are the same."""


def smaller_side(products: Tensor, least_ratio: float) -> list[int] | None:
    """Return the indices of the replies on the smaller side of their first principal component.

    Of two sides of one size, the one that lies further from the mean.

    Args:
        products: inner products of all pairs of updates, (replies, replies), as
            `screens.updates.inner_products` returns them.
        least_ratio: variance along the first component over that along the second from which the
            replies have two sides.

    Returns:
        None, if there are fewer than three replies, or they differ in all directions alike.

    Example:
        >>> updates = torch.tensor([[1.0, 0], [1, 0.1], [9, 0]], dtype=torch.float64)
        >>> smaller_side(updates @ updates.T, least_ratio=2)
        [2]
    """
    if len(products) < FEWEST or not bool(products.isfinite().all()):
        return None
    component, ratio = _first_component(products)
    if ratio < least_ratio:
        return None
    above = [index for index, value in enumerate(component.tolist()) if value > 0]
    below = [index for index, value in enumerate(component.tolist()) if value <= 0]
    if len(above) != len(below):
        return min(above, below, key=len)
    return max(above, below, key=lambda side: float(component[side].square().sum()))


def _first_component(products: Tensor) -> tuple[Tensor, float]:
    """Return the first principal component's coordinates, and its variance over the second's.

    Args:
        products: inner products of the rows, not centered, (N, N).
    """
    num = len(products)
    centering = torch.eye(num, dtype=products.dtype) - 1 / num
    variances, components = torch.linalg.eigh(centering @ products @ centering)
    if variances[-1] <= SMALLEST_SHARE * products.diagonal().sum():
        return components[:, -1], 0.0
    return components[:, -1], float(variances[-1] / variances[-2].clamp_min(0))
