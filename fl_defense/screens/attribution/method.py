"""Attribution: who taught the model what it did not know before?

Idea: a backdoor that is planted in a round shows as a pattern of pixels that lifts one class in the
new aggregate and not in the model that was sent out. Such patterns are searched without data, on
procedural scenes (`DifferenceSearch`), and every reply is asked how strongly it reacts to them, and
to those of earlier rounds. What the data teach, most replies have learned; what an attacker plants,
few have. Replies that stand out are left out, the rest is averaged, and the search goes on.

Reference: ours. FilterFL (CCS 2025, arXiv 2308.11333) searches images on which the new model is
sure and the old one is not, with a generator, and scores clients by it; FedGame (Wang et al.,
NeurIPS 2023) inverts a trigger with foreign images and weighs clients by it; AGSD (arXiv
2410.11205) keeps a history of trust. None of them compares reactions with those of the model sent
out, reply by reply, over several families of patterns.

Needs: single replies, so no secure aggregation; a model sent out that has learned something and is
not backdoored itself: once a backdoored model was sent out, all clients react to its trigger.

Cost: measured in docs; about as many forward and backward passes as training on a few thousand
images, and one more network in memory than the round has anyway.

Limits: it names who reacts to what it finds. A trigger that no family comes near is not found. Few
replies say little about one another; of a majority of attackers the median is theirs. How a client
with rare data reacts may look like an attack: the flips and the history are there for that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fl_defense.facts import Facts
from fl_defense.model.batches import in_chunks
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import require_image_gradient
from fl_defense.screens.attribution.history import History
from fl_defense.screens.attribution.judgement import Judgement, SuspicionPolicy
from fl_defense.screens.attribution.memory import Memory
from fl_defense.screens.attribution.replies import Networks
from fl_defense.screens.attribution.report import Finding
from fl_defense.screens.attribution.rule import OutlierRule
from fl_defense.screens.attribution.scores import Measure, spread_of
from fl_defense.screens.base import Screen, ScreenedRound, Screening, Verdict
from fl_defense.search.difference import Contrast, DifferenceSearch
from fl_defense.search.patterns import Pattern
from fl_defense.state import State
from fl_defense.surrogates.base import Surrogate
from fl_defense.surrogates.familiarity import draw_familiar
from fl_defense.surrogates.pool import SMALLEST_SPREAD
from fl_defense.surrogates.scenes import Scenes
from fl_defense.validation import require_at_least, require_declared, require_share


@dataclass(frozen=True, kw_only=True)
class Attribution(Screen):
    """Leave out the replies that react to patterns which the model sent out does not know.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> from fl_defense import DHBE, SCREENS
        >>> SCREENS["attribution"] is Attribution
        True
    """

    search: DifferenceSearch = field(default_factory=DifferenceSearch)
    """How patterns are searched."""
    rule: OutlierRule = field(default_factory=OutlierRule)
    """Which replies stand out."""
    surrogate: Surrogate = field(default_factory=Scenes)
    """Where images come from."""
    first_round: int = 2
    """First round that is screened: what an untrained model was sent for, all of it was learned in
    the round."""
    num_scenes: int = 320
    """Scenes that patterns are searched on."""
    num_judges: int = 64
    """Other scenes, that reactions are measured on."""
    num_first_judges: int = 24
    """Of these, the scenes that every pattern is measured on; the others only if it is near."""
    nearness: float = 0.5
    """Share of the rule's floor by which a reply must lie above the median for that, in [0, 1]."""
    candidates_per_image: int = 2
    """Scenes drawn for each one kept: those most familiar to the model sent out are kept."""
    most_searches: int = 3
    """Searches in a round: one more after each by which replies were left out, at most so many."""
    most_remembered: int = 8
    """Patterns that are carried to later rounds."""
    suspicion: SuspicionPolicy = field(default_factory=SuspicionPolicy)
    """How suspicion of a node adds up over its rounds."""
    least_kept: float = 0.5
    """Share of the replies that must be left, in [0, 1]; with fewer the model sent out stays."""
    action: Literal["exclude", "soften"] = "exclude"
    """What becomes of a reply that stands out: it is left out, or its weight is reduced to the
    limit over its score."""

    facts: ClassVar[Facts] = Facts(
        needs="single updates: no secure aggregation; a model sent out that is not backdoored",
        changes="replies that react to new patterns, which are left out",
        cost="as training on a few thousand images, in each round",
        paper="ours; nearest: FilterFL (CCS 2025), FedGame (NeurIPS 2023)",
        limits="triggers that no family comes near; few replies; a majority of attackers",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(
            self,
            first_round=1,
            num_scenes=1,
            num_judges=1,
            num_first_judges=1,
            candidates_per_image=1,
            most_searches=1,
            most_remembered=0,
        )
        require_share(self, "least_kept", "nearness")

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse images that no pattern fits into, and networks that gradients do not pass.

        Raises:
            ValueError: if a family does not fit, or no gradient comes back to images.
        """
        self.search.check(spec.input_shape)
        require_image_gradient(model, spec.input_shape)

    def screen(
        self,
        shown: ScreenedRound,
        spec: ModelSpec,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Screening:
        """Judge the replies of a round.

        Raises:
            ValueError: if the state is damaged or was written with other settings.
        """
        memory, history = self._read(state, spec)
        if shown.number < self.first_round:
            return Screening(
                verdicts=tuple(Verdict() for _ in shown.replies),
                state=state,
                details={"not_screened": "everything was learned in this round"},
            )
        return _Round(self, shown, spec, device, memory, history).screen()

    def _read(self, state: State | None, spec: ModelSpec) -> tuple[Memory, History]:
        if state is None:
            return Memory(), History()
        if set(state) != {"memory", "history"}:
            raise ValueError(f"state: must hold memory and history, got {sorted(map(str, state))}")
        memory = Memory.from_state(
            state["memory"], self.search.families, spec.input_shape, spec.num_classes
        )
        return memory, History.from_state(state["history"], spec.num_classes)


class _Round:
    """The work of one round."""

    def __init__(
        self,
        settings: Attribution,
        shown: ScreenedRound,
        spec: ModelSpec,
        device: torch.device,
        memory: Memory,
        history: History,
    ) -> None:
        self._settings, self._shown, self._spec, self._memory = settings, shown, spec, memory
        self._networks = Networks(shown, spec, device)
        self._sent = self._networks.sent()
        num = settings.num_scenes + settings.num_judges
        scenes = draw_familiar(
            settings.surrogate, self._sent, spec, num, settings.candidates_per_image
        )
        # The most familiar come first: both parts must be alike.
        scenes = scenes[torch.randperm(len(scenes), device=scenes.device)]
        self._searched, judges = scenes[: settings.num_scenes], scenes[settings.num_scenes :]
        self._sent_answers = in_chunks(self._sent, self._searched)
        self._measure = Measure(self._sent, judges, spec.pixels)
        self._answers: list[Tensor] = []
        self._judgement = Judgement(
            nodes=[reply.node for reply in shown.replies],
            rule=settings.rule,
            policy=settings.suspicion,
            history=history,
        )

    def screen(self) -> Screening:
        """Search and judge, by what is remembered as well, until nobody stands out."""
        if not bool(self._measure.plain.isfinite().all() and self._sent_answers.isfinite().all()):
            return self._screening(keep_sent="the model sent out gives answers that are not finite")
        for index, reply in enumerate(self._shown.replies):
            self._answers.append(self._measure.answers(self._networks.reply(reply)))
            if not bool(self._answers[index].isfinite().all()):
                self._judgement.leave_out(index, "its answers to scenes are not finite")
        is_suspicious = False
        for search in range(1, self._settings.most_searches + 1):
            if self._too_few() is not None:
                break
            aggregate = self._aggregate()
            # What is remembered and what is found are judged together: where attackers have drifted
            # from an old pattern, a fresh one is found while all of them are still in the mean.
            remembered = self._memory.patterns if search == 1 else []
            found = self._found(aggregate)
            findings = self._judge(remembered, found, aggregate, search)
            is_suspicious = any(self._is_strong(finding) for finding in findings)
            if not any(finding.left_out for finding in findings):
                break
        few = self._too_few()
        if few is not None:
            return self._screening(keep_sent=few)
        return self._screening(keep_sent=None, is_suspicious=is_suspicious or self._is_taught())

    def _is_taught(self) -> bool:
        """Tell whether what is left reacts to a pattern that somebody was left out for.

        By itself, not beyond the model sent out: that one may have learned it in earlier rounds,
        before anybody was named, and then no difference shows it any more.
        """
        proven = [entry.pattern for entry in self._memory.entries if entry.is_proven]
        proven += [finding.pattern for finding in self._judgement.findings if finding.left_out]
        if not proven:
            return False
        aggregate, rule = self._aggregate(), self._settings.rule
        plain = self._measure.answers(aggregate)
        own = self._measure.own_reactions(aggregate, plain, proven, spread=spread_of(plain))
        return any(
            reaction.gain / pattern.family.bar > rule.floor
            and reaction.flipped >= rule.least_flipped
            for pattern, reaction in zip(proven, own, strict=True)
        )

    def _too_few(self) -> str | None:
        """Tell why what is left is not to be aggregated, or None."""
        left, num = len(self._judgement.kept), len(self._shown.replies)
        if left > 0 and left >= self._settings.least_kept * num:
            return None
        return f"{num - left} of {num} replies stand out"

    def _aggregate(self) -> nn.Module:
        """Return the mean of the replies that are left."""
        return self._networks.mean([self._shown.replies[i] for i in self._judgement.kept])

    def _found(self, aggregate: nn.Module) -> list[Pattern]:
        """Return the patterns that a search finds in an aggregate; none if it overflows."""
        contrast = Contrast(
            aggregate,
            self._sent,
            self._searched,
            self._spec.pixels,
            of_reference=self._sent_answers,
        )
        return self._settings.search.find(contrast)

    def _judge(
        self,
        remembered: Sequence[Pattern],
        found: Sequence[Pattern],
        aggregate: nn.Module,
        search: int,
    ) -> list[Finding]:
        """Measure patterns on the replies that are left, and leave out who stands out."""
        settings, spread = self._settings, self._spread()
        patterns = [*remembered, *found]
        answers = self._measure.answers(aggregate)
        of_aggregate = self._measure.reactions(
            aggregate, answers, patterns, spread=spread, num=settings.num_judges
        )
        findings = [
            Finding(
                pattern=pattern,
                search=None if number < len(remembered) else search,
                aggregate=reaction,
                replies={},
            )
            for number, (pattern, reaction) in enumerate(zip(patterns, of_aggregate, strict=True))
        ]
        self._react(findings, spread, settings.num_first_judges)
        if settings.num_first_judges < settings.num_judges:
            near = [finding for finding in findings if self._is_near(finding)]
            self._react(near, spread, settings.num_judges)
        self._judgement.judge(findings)
        return findings

    def _react(self, findings: Sequence[Finding], spread: float, num: int) -> None:
        """Measure the replies that are left by so many scenes."""
        patterns = [finding.pattern for finding in findings]
        for index in self._judgement.kept if patterns else ():
            network = self._networks.reply(self._shown.replies[index])
            reactions = self._measure.reactions(
                network, self._answers[index], patterns, spread=spread, num=num
            )
            for finding, reaction in zip(findings, reactions, strict=True):
                finding.replies[index] = reaction

    def _is_near(self, finding: Finding) -> bool:
        """Tell whether some reply may stand out, as far as the first scenes tell."""
        scores = [finding.score(index) for index in finding.replies]
        return max(scores) - median(scores) >= self._settings.nearness * self._settings.rule.floor

    def _spread(self) -> float:
        """Return the unit of gains: how far the logits of a model lie apart.

        A model of the first rounds says nearly the same to everything: then the replies' spread
        counts, of which no client decides alone.
        """
        of_replies = [spread_of(self._answers[index]) for index in self._judgement.kept]
        return max(spread_of(self._sent_answers), median(of_replies), SMALLEST_SPREAD)

    def _is_strong(self, finding: Finding) -> bool:
        """Tell whether the aggregate itself reacts as a reply must not."""
        rule = self._settings.rule
        is_far = finding.aggregate_score > rule.floor
        return is_far and finding.aggregate.flipped >= rule.least_flipped

    def _screening(self, *, keep_sent: str | None, is_suspicious: bool = False) -> Screening:
        judgement, settings = self._judgement, self._settings
        history = judgement.history_after()
        memory = self._memory.with_patterns(
            judgement.to_remember(self._shown.number), settings.most_remembered
        )
        telling = [finding for finding in judgement.findings if finding.is_telling]
        shape = self._spec.input_shape
        return Screening(
            verdicts=judgement.verdicts(soften=settings.action == "soften"),
            keep_sent=keep_sent,
            is_suspicious=is_suspicious,
            state={"memory": memory.to_state(), "history": history.to_state()},
            details={
                "patterns": [finding.to_json(judgement.nodes, shape) for finding in telling],
                "strongest": max(
                    (finding.aggregate_score for finding in judgement.findings), default=None
                ),
                "suspicion": history.to_json(),
                "remembered": len(memory.entries),
            },
            pictures={
                f"{number} {finding.pattern.family.name}, class {finding.pattern.label}": (
                    finding.pattern.picture(shape)
                )
                for number, finding in enumerate(telling)
            },
        )
