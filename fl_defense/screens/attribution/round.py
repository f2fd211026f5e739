"""The work of one round: search, ask every reply, decide, remember."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fl_defense.model.batches import in_chunks
from fl_defense.model.spec import ModelSpec
from fl_defense.progress import counted
from fl_defense.screens.attribution.history import History
from fl_defense.screens.attribution.judgement import Judgement
from fl_defense.screens.attribution.memory import Memory
from fl_defense.screens.attribution.past import Past
from fl_defense.screens.attribution.report import Finding
from fl_defense.screens.attribution.scores import Measure, spread_of
from fl_defense.screens.attribution.sides import smaller_side
from fl_defense.screens.base import EarlierModel, ScreenedRound, Screening
from fl_defense.screens.networks import Networks
from fl_defense.screens.updates import inner_products, names_of_weights
from fl_defense.search.difference import Contrast
from fl_defense.search.patterns import Pattern
from fl_defense.surrogates.familiarity import draw_familiar
from fl_defense.surrogates.pool import SMALLEST_SPREAD

if TYPE_CHECKING:
    from fl_defense.screens.attribution.method import Attribution


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known from the rounds before."""

    memory: Memory = field(default_factory=Memory)
    """Patterns."""
    history: History = field(default_factory=History)
    """Suspicion."""
    past: Past = field(default_factory=Past)
    """Models that were sent out."""


class JudgedRound:
    """Judges the replies of one round.

    Args:
        settings: of the screen.
        shown: what was sent out and what came back.
        spec: structure of the model.
        device: where to compute.
        known: from the rounds before.
    """

    def __init__(
        self,
        settings: "Attribution",
        shown: ScreenedRound,
        spec: ModelSpec,
        device: torch.device,
        known: Known,
    ) -> None:
        self._settings, self._shown, self._spec, self._known = settings, shown, spec, known
        self._memory = known.memory
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
        self._products = inner_products(shown, names_of_weights(spec))
        self._judgement = Judgement(
            nodes=[reply.node for reply in shown.replies],
            rule=settings.rule,
            policy=settings.suspicion,
            history=known.history,
        )

    def screen(self) -> Screening:
        """Search and judge, by what is remembered as well, until nobody stands out."""
        if not bool(self._measure.plain.isfinite().all() and self._sent_answers.isfinite().all()):
            return self._screening(keep_sent="the model sent out gives answers that are not finite")
        for index, reply in enumerate(counted("asking replies", self._shown.replies)):
            self._answers.append(self._measure.answers(self._networks.reply(reply)))
            if not bool(self._answers[index].isfinite().all()):
                self._judgement.leave_out(index, "its answers to scenes are not finite")
        is_suspicious = self._search_all()
        rewound = self._rewound()
        if rewound is not None:
            return rewound
        few = self._too_few()
        if few is not None:
            return self._screening(keep_sent=few)
        return self._screening(keep_sent=None, is_suspicious=is_suspicious or self._is_taught())

    def _search_all(self) -> bool:
        """Search both contrasts, each until nobody stands out; return whether what is left may do.

        Where attackers teach what others forget again, the mean stands still and nothing in it is
        new: the sides of a round show it. Where they differ from others in less than data do, the
        mean shows it.
        """
        is_suspicious, search = False, 0
        for contrast_of in (self._between_sides, self._with_sent):
            while search < self._settings.most_searches and self._too_few() is None:
                aggregate = self._aggregate()
                contrast = contrast_of(aggregate)
                if contrast is None:
                    break
                search += 1
                # What is remembered and what is found are judged together: where attackers have
                # drifted from an old pattern, a fresh one is found while all of them are still in
                # the mean.
                remembered = self._memory.patterns if search == 1 else []
                found = self._settings.search.find(contrast)
                findings = self._judge(remembered, found, aggregate, search)
                if not any(finding.left_out for finding in findings):
                    is_suspicious |= any(
                        finding.is_strong(self._settings.rule) for finding in findings
                    )
                    break
        return is_suspicious

    def _rewound(self) -> Screening | None:
        """Go back to an earlier model if who is named has taught the one that was sent out."""
        past, history = self._known.past, self._judgement.history
        accused: set[tuple[int, int]] = set()
        patterns: list[Pattern] = []
        for finding in self._judgement.findings:
            label = finding.pattern.label
            nodes = {self._judgement.nodes[index] for index in finding.left_out}
            again = {
                (node, label)
                for node in nodes
                if past.accused.get((node, label), 0) < self._settings.rewind.most_times
                and self._settings.suspicion.is_over(history.of(node, label))
            }
            if again:
                accused |= again
                patterns.append(finding.pattern)
        now = self._measure.own_scores(self._sent, patterns) if patterns and past.models else []
        floor = self._settings.rule.floor
        taught = [place for place, (score, _) in enumerate(now) if score > floor]
        share = 1 - self._settings.rewind.least_fall
        for earlier in reversed(past.models) if taught else ():
            then = self._measure.own_scores(self._networks.of(earlier.arrays), patterns)
            if all(then[place][0] <= share * now[place][0] for place in taught):
                num = len({node for node, _ in accused})
                who = "a reply teaches" if num == 1 else f"{num} replies teach"
                return self._screening(
                    keep_sent=f"the one sent out reacts to what {who} again",
                    send_again=earlier,
                    past=past.gone_back(earlier, accused),
                )
        return None

    def _is_taught(self) -> bool:
        """Tell whether what is left reacts to a pattern that somebody was left out for.

        By itself, not beyond the model sent out: that one may have learned it in earlier rounds,
        before anybody was named, and then no difference shows it any more.
        """
        proven = [entry.pattern for entry in self._memory.entries if entry.is_proven]
        proven += [finding.pattern for finding in self._judgement.findings if finding.left_out]
        if not proven:
            return False
        rule = self._settings.rule
        return any(
            score > rule.floor and turned >= rule.least_flipped
            for score, turned in self._measure.own_scores(self._aggregate(), proven)
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

    def _with_sent(self, aggregate: nn.Module) -> Contrast:
        """Return what the aggregate does that the model sent out does not."""
        return Contrast(
            aggregate,
            self._sent,
            self._searched,
            self._spec.pixels,
            of_reference=self._sent_answers,
        )

    def _between_sides(self, aggregate: nn.Module) -> Contrast | None:
        """Return what the smaller side of the replies does that the other one does not."""
        del aggregate
        kept = self._judgement.kept
        side = smaller_side(self._products[kept][:, kept], self._settings.least_ratio)
        if side is None:
            return None
        replies = [self._shown.replies[index] for index in kept]
        others = [reply for index, reply in enumerate(replies) if index not in side]
        few = [replies[index] for index in side]
        return Contrast(
            self._networks.mean(few),
            self._networks.mean(others),
            self._searched,
            self._spec.pixels,
        )

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
            # As far as the first scenes tell, some reply may stand out by these.
            least = settings.nearness * settings.rule.floor
            near = [finding for finding in findings if finding.lead >= least]
            self._react(near, spread, settings.num_judges)
        self._judgement.judge(findings)
        return findings

    def _react(self, findings: Sequence[Finding], spread: float, num: int) -> None:
        """Measure the replies that are left by so many scenes."""
        patterns = [finding.pattern for finding in findings]
        for index in counted(
            "showing patterns to replies", self._judgement.kept if patterns else ()
        ):
            network = self._networks.reply(self._shown.replies[index])
            reactions = self._measure.reactions(
                network, self._answers[index], patterns, spread=spread, num=num
            )
            for finding, reaction in zip(findings, reactions, strict=True):
                finding.replies[index] = reaction

    def _spread(self) -> float:
        """Return the unit of gains: how far the logits of a model lie apart.

        A model of the first rounds says nearly the same to everything: then the replies' spread
        counts, of which no client decides alone.
        """
        of_replies = [spread_of(self._answers[index]) for index in self._judgement.kept]
        return max(spread_of(self._sent_answers), median(of_replies), SMALLEST_SPREAD)

    def _screening(
        self,
        *,
        keep_sent: str | None,
        is_suspicious: bool = False,
        send_again: EarlierModel | None = None,
        past: Past | None = None,
    ) -> Screening:
        judgement, settings = self._judgement, self._settings
        if past is None:
            past = self._known.past.after(
                self._shown.number,
                self._shown.sent,
                settings.rewind.most_kept,
                1 if self._shown.began_trained else settings.first_round,
            )
        history = judgement.history_after()
        memory = self._memory.with_patterns(
            judgement.to_remember(self._shown.number), settings.most_remembered
        )
        telling = [finding for finding in judgement.findings if finding.is_telling]
        shape = self._spec.input_shape
        return Screening(
            verdicts=judgement.verdicts(soften=settings.action == "soften"),
            keep_sent=keep_sent,
            send_again=send_again,
            is_suspicious=is_suspicious,
            state={
                "memory": memory.to_state(),
                "history": history.to_state(),
                "past": past.to_state(),
            },
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
