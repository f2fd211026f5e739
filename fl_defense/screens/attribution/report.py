"""What was found, for a person: which pattern, what it does, and to whom."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from fl_defense.screens.attribution.rule import OutlierRule
from fl_defense.screens.attribution.scores import Reaction
from fl_defense.search.patterns import Pattern


@dataclass(kw_only=True)
class Finding:
    """A pattern with the reactions of the aggregate and of the replies that were left."""

    pattern: Pattern
    search: int | None
    """Number of the search in this round, counted from 1; None: found in an earlier round."""
    aggregate: Reaction
    replies: dict[int, Reaction]
    """By the index of the reply."""
    left_out: list[int] = field(default_factory=list)
    """Replies that were left out for it."""
    suspected: list[int] = field(default_factory=list)
    """Replies that stand out, those that were left out included."""

    @property
    def is_telling(self) -> bool:
        """Whether some reply stands out by it."""
        return bool(self.suspected)

    @property
    def strength(self) -> tuple[int, float]:
        """How many replies were left out for it, and the least score of those that stand out."""
        return len(self.left_out), min((self.score(index) for index in self.suspected), default=0.0)

    def score(self, index: int) -> float:
        """Return a reply's gain over the bar of the pattern's family."""
        return self.replies[index].gain / self.pattern.family.bar

    @property
    def aggregate_score(self) -> float:
        """The aggregate's gain over that bar."""
        return self.aggregate.gain / self.pattern.family.bar

    @property
    def lead(self) -> float:
        """How far the reply that reacts most lies above the median of all."""
        scores = [self.score(index) for index in self.replies]
        return max(scores) - median(scores)

    def is_strong(self, rule: OutlierRule) -> bool:
        """Tell whether the aggregate itself reacts as a reply must not."""
        return self.aggregate_score > rule.floor and self.aggregate.flipped >= rule.least_flipped

    def to_json(self, nodes: Sequence[int], shape: tuple[int, int, int]) -> dict[str, Any]:
        """Return JSON values; nodes by the index of their reply."""
        return {
            "family": self.pattern.family.name,
            "class": self.pattern.label,
            "place": list(self.pattern.place(shape)),
            "search": self.search,
            "gain": round(self.aggregate.gain, 3),
            "flipped": round(self.aggregate.flipped, 3),
            "gains": {str(nodes[i]): round(seen.gain, 3) for i, seen in self.replies.items()},
            "flips": {str(nodes[i]): round(seen.flipped, 3) for i, seen in self.replies.items()},
            "left_out": [nodes[i] for i in self.left_out],
            "suspected": [nodes[i] for i in self.suspected],
        }


def describe(finding: Finding, index: int) -> str:
    """Return in one line why a reply stands out."""
    seen, pattern = finding.replies[index], finding.pattern
    others = median(reaction.gain for reaction in finding.replies.values())
    where = "remembered" if finding.search is None else "found"
    return (
        f"reacts to a {where} pattern ({pattern.family.name}, class {pattern.label}): gain "
        f"{seen.gain:.2f} beyond the model sent out, median {others:.2f}, flips {seen.flipped:.0%}"
    )
