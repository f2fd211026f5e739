"""Which replies stand out from the others in their reactions to one pattern."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from fl_defense.validation import require, require_at_least, require_declared, require_share

MAD_TO_DEVIATION = 1.4826
"""A normal distribution's standard deviation, over its median absolute deviation."""


@dataclass(frozen=True, kw_only=True)
class OutlierRule:
    """Two tests: the outliers that are certain at once, and those that are suspected.

    Scores are gains over the bar of the pattern's family. Honest replies are not alike, the less so
    the more their data differ: a wide spread raises the first test's limit, and a score alone says
    little where most classes are unknown to a client. So the first test asks for flips as well. The
    second one looks for the largest gap instead of a distance, since the replies may fall into two
    heaps; it is wrong now and then, but about another node or another class each time. A pattern
    that most replies turn scenes by is one of the data: a client that has more of a class reacts to
    it more strongly in every round, and is no suspect.

    Raises:
        ValueError: if a setting is out of its range.
    """

    deviations: float = 6.0
    """Robust standard deviations by which a certain outlier lies above the median."""
    floor: float = 1.0
    """Least score above the median, in bars of the family, of an outlier of either kind."""
    least_flipped: float = 0.5
    """Share of scenes that a pattern must turn, in [0, 1], for a reply to be a certain outlier."""
    gap: float = 1.8
    """Of a suspect: its distance from the median over that of the next reply below the gap."""
    least_apart: float = 0.25
    """Of a suspect: the share of scenes that the pattern turns in it, less that in the median
    reply, in [0, 1]."""
    smallest_distance: float = 0.15
    """Distances below this count as this in that ratio."""
    fewest_replies: int = 4
    """With fewer replies there is no median to compare with: scores are compared with 0."""

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, deviations=0, floor=0, gap=1, fewest_replies=1)
        require_share(self, "least_flipped", "least_apart")
        require(self.smallest_distance > 0, "smallest_distance", "positive", self.smallest_distance)

    def limit(self, scores: Sequence[float]) -> float:
        """Return the score above which a reply that flips is a certain outlier."""
        center = self._center(scores)
        if len(scores) < self.fewest_replies:
            return center + self.floor
        deviation = MAD_TO_DEVIATION * median(abs(score - center) for score in scores)
        return center + max(self.floor, self.deviations * deviation)

    def certain(self, scores: Sequence[float], flipped: Sequence[float]) -> list[int]:
        """Return the indices of the certain outliers.

        Args:
            scores: of the replies to one pattern.
            flipped: share of scenes that the pattern turns in each reply.
        """
        limit = self.limit(scores)
        return [
            index
            for index, (score, share) in enumerate(zip(scores, flipped, strict=True))
            if score > limit and share >= self.least_flipped
        ]

    def suspects(
        self, scores: Sequence[float], turned: Sequence[float], *, probation: float = 1.0
    ) -> list[int]:
        """Return the indices of the replies above the largest gap, fewer than half of them.

        Args:
            scores: of the replies to one pattern.
            turned: share of scenes that the pattern turns in each reply, whatever the model sent
                out does.
            probation: factor on the floor, in [0, 1], for nodes that are known.
        """
        floor, usual = self.floor * probation, self._center(turned)
        center = self._center(scores)
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        distances = [scores[index] - center for index in order]
        widest, num = 0.0, 0
        for above in range(1, (len(scores) - 1) // 2 + 1):
            nearest = max(distances[above], self.smallest_distance)
            if distances[above - 1] >= floor and distances[above - 1] / nearest > widest:
                widest, num = distances[above - 1] / nearest, above
        if widest < self.gap:
            return []
        return sorted(index for index in order[:num] if turned[index] - usual >= self.least_apart)

    def _center(self, scores: Sequence[float]) -> float:
        return median(scores) if len(scores) >= self.fewest_replies else 0.0
