"""FCBA: attackers plant all combinations of the trigger's parts."""

from dataclasses import dataclass
from itertools import combinations

from simulations.attack.dba import DBA


@dataclass(frozen=True, kw_only=True)
class FCBA(DBA):
    """Each attacker stamps its own combination of the trigger's parts (Liu et al., AAAI 2024).

    All combinations but the whole: 14 for four parts. Fewer attackers have several each.
    """

    def pieces(self, num_parts: int) -> list[tuple[int, ...]]:
        """Return the non-empty proper subsets of the parts, small ones first."""
        parts = range(num_parts)
        return [some for size in range(1, num_parts) for some in combinations(parts, size)]
