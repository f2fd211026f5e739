"""Attribution: who taught the model what it did not know before?

Idea: a backdoor that is planted in a round shows as a pattern of pixels that lifts one class in the
new aggregate and not in the model that was sent out. Such patterns are searched without data, on
procedural scenes (`DifferenceSearch`), and every reply is asked how strongly it reacts to them, and
to those of earlier rounds. What the data teach, most replies have learned; what an attacker plants,
few have. Replies that stand out are left out, the rest is averaged, and the search goes on. Where
a node stands out that did so before, what it taught then may be in the model sent out: if that one
reacts as well, and an earlier one does not, the federation goes on from the earlier one.

Reference: ours. FilterFL (CCS 2025, arXiv 2308.11333) searches images on which the new model is
sure and the old one is not, with a generator, and scores clients by it; FedGame (Jia et al.,
NeurIPS 2023) inverts a trigger with foreign images and weighs clients by it; AGSD (Ali
et al., arXiv 2410.11205) keeps a history of trust. BaFFLe (Andreina et al., ICDCS 2021) undoes a
round that clients vote against, and FedRecover (Cao et al., IEEE S&P 2023) trains anew from kept
models once attackers are known. None of them compares reactions with those of the model sent out,
reply by reply, over several families of patterns.

Needs: single replies, so no secure aggregation; a model sent out that has learned something and is
not backdoored itself: once a backdoored model was sent out, all clients react to its trigger.

Cost: measured in docs; about as many forward and backward passes as training on a few thousand
images, and in memory one more network than the round has anyway and the earlier models (`rewind`).

Limits: it names who reacts to what it finds. A trigger that no family comes near is not found. Few
replies say little about one another; of a majority of attackers the median is theirs. How a client
with rare data reacts may look like an attack: the flips and the history are there for that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fl_defense.facts import Facts
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import require_image_gradient
from fl_defense.screens.attribution.history import History
from fl_defense.screens.attribution.judgement import SuspicionPolicy
from fl_defense.screens.attribution.memory import Memory
from fl_defense.screens.attribution.past import Past, RewindPolicy
from fl_defense.screens.attribution.round import JudgedRound, Known
from fl_defense.screens.attribution.rule import OutlierRule
from fl_defense.screens.base import Screen, ScreenedRound, Screening, Verdict
from fl_defense.search.difference import DifferenceSearch
from fl_defense.state import State
from fl_defense.surrogates.base import Surrogate
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
    the round. Where a run begins with a trained model (`Schedule.initial`), all rounds are."""
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
    least_ratio: float = 2.0
    """Variance of the replies along their first principal component over that along the second,
    from which the two sides of it are searched against one another: 1.1 to 1.2 of honest clients
    with similar data, 1.8 with Dirichlet 0.1; 2.2 and more where some attack together."""
    most_searches: int = 4
    """Searches in a round: the sides, if there are any, and the aggregate, and one more after each
    by which replies were left out, at most so many."""
    most_remembered: int = 8
    """Patterns that are carried to later rounds."""
    suspicion: SuspicionPolicy = field(default_factory=SuspicionPolicy)
    """How suspicion of a node adds up over its rounds."""
    rewind: RewindPolicy = field(default_factory=RewindPolicy)
    """When the federation goes back to an earlier model."""
    least_kept: float = 0.5
    """Share of the replies that must be left, in [0, 1]; with fewer the model sent out stays."""
    action: Literal["exclude", "soften"] = "exclude"
    """What becomes of a reply that stands out: it is left out, or its weight is reduced to the
    limit over its score."""

    asks_for_repair: ClassVar[bool] = True
    facts: ClassVar[Facts] = Facts(
        needs="single updates: no secure aggregation; a model sent out that is not backdoored",
        changes="replies that react to new patterns, which are left out; an earlier model is sent "
        "again if who is named has taught before",
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
        require_at_least(self, least_ratio=1)
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
        known = self._read(state, shown.sent, spec)
        if shown.is_before(self.first_round):
            return Screening(
                verdicts=tuple(Verdict() for _ in shown.replies),
                state=state,
                details={"not_screened": "everything was learned in this round"},
            )
        return JudgedRound(self, shown, spec, device, known).screen()

    def _read(self, state: State | None, sent: Mapping[str, Tensor], spec: ModelSpec) -> Known:
        if state is None:
            return Known()
        if set(state) != {"memory", "history", "past"}:
            raise ValueError(
                f"state: must hold memory, history and past, got {sorted(map(str, state))}"
            )
        return Known(
            memory=Memory.from_state(
                state["memory"], self.search.families, spec.input_shape, spec.num_classes
            ),
            history=History.from_state(state["history"], spec.num_classes),
            past=Past.from_state(state["past"], sent, spec.num_classes),
        )
