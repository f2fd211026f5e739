"""HDBSCAN on distances, by scikit-learn: the only file of the room that imports it."""

from importlib.util import find_spec

import torch
from torch import Tensor


def require_hdbscan(screen: object) -> None:
    """Refuse where scikit-learn is not installed.

    Args:
        screen: what needs it.

    Raises:
        ValueError: if it is not; the message says how to get it.
    """
    if find_spec("sklearn") is None:
        raise ValueError(
            f"{type(screen).__name__} clusters replies by scikit-learn's HDBSCAN, which is not "
            "installed; pip install 'fl-defense[screens]'"
        )


def hdbscan(distances: Tensor, *, min_cluster_size: int) -> list[int]:
    """Return the cluster of each point, from 0 on, or -1 for a point in none.

    Density-based clusters (Campello, Moulavi and Sander, PAKDD 2013). All points may be one
    cluster, and a single neighbour makes a point dense.

    Args:
        distances: (N, N), finite, symmetric, 0 on the diagonal; at least two points.
        min_cluster_size: fewest points of a cluster, at least 2.

    Example:
        >>> far = torch.tensor([[0.0, 0.1, 0.9], [0.1, 0.0, 0.9], [0.9, 0.9, 0.0]])
        >>> hdbscan(far, min_cluster_size=2)
        [0, 0, -1]
    """
    from sklearn.cluster import HDBSCAN

    even = ((distances + distances.T) / 2).double().fill_diagonal_(0)
    found = HDBSCAN(
        min_cluster_size=min_cluster_size,
        min_samples=1,
        metric="precomputed",
        allow_single_cluster=True,
        copy=True,
    ).fit(even.numpy())
    return [int(label) for label in torch.from_numpy(found.labels_)]
