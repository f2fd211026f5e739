"""What is decided about each reply, finding by finding."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fl_defense.screens.attribution.history import History
from fl_defense.screens.attribution.memory import Remembered
from fl_defense.screens.attribution.report import Finding, describe
from fl_defense.screens.attribution.rule import OutlierRule
from fl_defense.screens.base import Verdict
from fl_defense.validation import require_positive, require_share


@dataclass(frozen=True, kw_only=True)
class SuspicionPolicy:
    """How suspicion of a node adds up over its rounds.

    Raises:
        ValueError: if a setting is out of its range.
    """

    forgetting: float = 0.7
    """Share of its suspicion that a node keeps from one of its rounds to the next, in [0, 1]."""
    probation: float = 0.5
    """Share of the rule's floor, in [0, 1], from which a node stands out that is left out by its
    suspicion."""
    limit: float = 1.3
    """Suspicion for one class from which a node is left out: 1 for each round in which it stood
    out, less what was forgotten."""

    def __post_init__(self) -> None:
        require_share(self, "forgetting", "probation")
        require_positive(self, "limit")

    def is_over(self, before: float) -> bool:
        """Tell whether a node that stands out is over the limit, by the suspicion before it did."""
        return self.forgetting * before + 1 >= self.limit


@dataclass(kw_only=True)
class Judgement:
    """The replies that are left in a round, and what speaks against the others."""

    nodes: Sequence[int]
    """Of the replies, in their order."""
    rule: OutlierRule
    """Which replies stand out."""
    policy: SuspicionPolicy
    """How suspicion adds up."""
    history: History
    """Of the rounds before."""
    kept: list[int] = field(init=False)
    """Indices of the replies that are left."""
    weights: dict[int, float] = field(default_factory=dict)
    """Of those that are not: what softening would leave of them, in [0, 1)."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why they are not."""
    scores: dict[int, float] = field(default_factory=dict)
    """Largest score of each reply, in bars."""
    findings: list[Finding] = field(default_factory=list)
    """All that was measured."""
    _suspected: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.kept = list(range(len(self.nodes)))

    def leave_out(self, index: int, reason: str, weight: float = 0.0) -> None:
        """Leave a reply out, for a first reason or a further one.

        Args:
            index: of the reply.
            reason: in one line.
            weight: what softening would leave of it, in [0, 1).
        """
        if index in self.kept:
            self.kept.remove(index)
            self.reasons[index] = reason
        self.weights[index] = min(weight, self.weights.get(index, 1.0))

    def judge(self, findings: Sequence[Finding]) -> bool:
        """Leave out who stands out by any of the findings; return whether anybody does."""
        before = len(self.kept)
        for finding in findings:
            self._judge(finding)
        self.findings.extend(findings)
        return len(self.kept) < before

    def history_after(self) -> History:
        """Return the history with this round."""
        return self.history.after(self.nodes, self._suspected, self.policy.forgetting)

    def to_remember(self, server_round: int) -> list[Remembered]:
        """Return the patterns by which somebody stood out, those that told most come first."""
        return [
            Remembered(
                pattern=finding.pattern, round=server_round, is_proven=bool(finding.left_out)
            )
            for finding in sorted(self.findings, key=lambda each: each.strength, reverse=True)
            if finding.is_telling
        ]

    def verdicts(self, *, soften: bool) -> tuple[Verdict, ...]:
        """Return one verdict per reply; softened, those that stand out keep some weight."""
        verdicts = []
        for index in range(len(self.nodes)):
            weight = 1.0
            if index in self.weights:
                weight = self.weights[index] if soften else 0.0
            verdicts.append(
                Verdict(
                    weight=weight,
                    score=self.scores.get(index),
                    reason=self.reasons.get(index, ""),
                )
            )
        return tuple(verdicts)

    def _judge(self, finding: Finding) -> None:
        indices, label = list(finding.replies), finding.pattern.label
        scores = [finding.score(index) for index in indices]
        reactions = [finding.replies[index] for index in indices]
        turned = [reaction.turned for reaction in reactions]
        certain = self.rule.certain(scores, [reaction.flipped for reaction in reactions])
        suspects = self.rule.suspects(scores, turned)
        known = [
            place
            for place in self.rule.suspects(scores, turned, probation=self.policy.probation)
            if self.policy.is_over(self.history.of(self.nodes[indices[place]], label))
        ]
        limit = self.rule.limit(scores)
        for place, (index, score) in enumerate(zip(indices, scores, strict=True)):
            self.scores[index] = max(score, self.scores.get(index, score))
            if place not in {*certain, *suspects, *known}:
                continue
            node = self.nodes[index]
            self._suspected.add((node, label))
            finding.suspected.append(index)
            if place in certain or self.policy.is_over(self.history.of(node, label)):
                finding.left_out.append(index)
                weight = limit / score if score > limit > 0 else 0.0
                self.leave_out(index, describe(finding, index), weight)
