"""A fixed number of classes for each client."""

from dataclasses import dataclass

import numpy as np

from fl_defense.validation import require_at_least
from simulations.data.partitions.base import Indices


@dataclass(frozen=True, kw_only=True)
class Pathological:
    """Every client has images of exactly so many classes (Li et al., ICDE 2022: #C = k).

    Each class goes in equal shares to the clients that have it; how many have it differs by at
    most one between classes.

    Example:
        >>> labels = np.arange(100) % 5
        >>> parts = Pathological(classes_per_client=2).split(labels, num_clients=10, seed=0)
        >>> {len(set(labels[part])) for part in parts}, {len(part) for part in parts}
        ({2}, {10})
    """

    classes_per_client: int = 2
    """Classes of each client; 1 is the hardest case."""

    def __post_init__(self) -> None:
        require_at_least(self, classes_per_client=1)

    def split(self, labels: Indices, num_clients: int, seed: int) -> list[Indices]:
        """Give each client the classes that fewest others have, then share each class out."""
        classes, sizes = np.unique(labels, return_counts=True)
        self._require_possible(len(classes), num_clients)
        generator = np.random.default_rng(seed)
        owners: list[list[int]] = [[] for _ in classes]
        for client in range(num_clients):
            ties = generator.permutation(len(classes))
            rarest = sorted(ties, key=lambda each: len(owners[each]))
            for each in rarest[: self.classes_per_client]:
                owners[each].append(client)
        parts: list[list[Indices]] = [[] for _ in range(num_clients)]
        for label, size, who in zip(classes, sizes, owners, strict=True):
            if size < len(who):
                raise ValueError(
                    f"class {label} has {size} images for {len(who)} clients; "
                    "take fewer clients or more images"
                )
            members = generator.permutation(np.flatnonzero(labels == label))
            for client, share in zip(who, np.array_split(members, len(who)), strict=True):
                parts[client].append(share)
        return [np.sort(np.concatenate(part)) for part in parts]

    def _require_possible(self, num_classes: int, num_clients: int) -> None:
        wanted = self.classes_per_client
        if wanted > num_classes:
            raise ValueError(
                f"classes_per_client must be at most the {num_classes} classes there are, "
                f"got {wanted}; lower it"
            )
        if wanted * num_clients < num_classes:
            raise ValueError(
                f"{num_clients} clients with {wanted} classes each cannot hold all {num_classes} "
                "classes; raise classes-per-client or take more clients"
            )
