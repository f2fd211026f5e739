"""RLR: where clients do not agree on a sign, the learning rate is turned round.

Idea: a backdoor needs coordinates that few clients move, and most do not. For each coordinate the
signs of all updates are added up. Where their sum is small, the server steps against the mean of
the updates, otherwise along it.

Reference: Ozdayi, Kantarcioglu and Gel, "Defending against Backdoors in Federated Learning with
Robust Learning Rate", AAAI 2021, arXiv 2007.03767. The threshold is the paper's of Fashion-MNIST,
4 of 10 clients; of 33 clients it takes 7 or 8.

Deviations: the threshold is a share, for rounds differ in size. Each reply's update is turned round
in those coordinates in its place, so the mean that the strategy takes, by whatever weights, is the
rule's: sent + rate * mean of the updates. BatchNorm's statistics are averaged as they are.

Needs: single replies, so no secure aggregation. Cost: one pass over the updates.

Limits: nobody is left out. Where data are skewed, honest clients disagree, and what they learned is
turned round as well: it costs accuracy. Attackers who are many enough agree by themselves.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fl_defense.facts import Facts
from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.updates import as_sent, change, names_of_weights, too_few
from fl_defense.state import State
from fl_defense.validation import require_at_least, require_declared, require_share


@dataclass(frozen=True, kw_only=True)
class RLR(Screen):
    """Turn updates round in the coordinates on whose sign too few clients agree.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> from fl_defense.screens import Reply
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> sent = {name: value.clone() for name, value in spec.build().state_dict().items()}
        >>> replies = [
        ...     Reply(node=node, arrays={k: v + s for k, v in sent.items()}, num_examples=10.0)
        ...     for node, s in enumerate((1, 1, -1, -1, 8))
        ... ]
        >>> shown = ScreenedRound(number=1, sent=sent, replies=replies)
        >>> said = RLR().screen(shown, spec, device=torch.device("cpu"))
        >>> said.details["turned"], bool((said.verdicts[4].arrays["9.bias"] < sent["9.bias"]).all())
        (1.0, True)
    """

    least_agreement: float = 0.4
    """Sum of signs below which a coordinate is turned round, as a share of the replies, in [0, 1].
    """
    least_replies: int = 3
    """Fewest replies that vote, at least 3; with fewer the model sent out stays."""

    facts: ClassVar[Facts] = Facts(
        needs="single updates: no secure aggregation",
        changes="coordinates on whose sign clients disagree, in every reply",
        cost="one pass over the updates",
        paper="Ozdayi et al., AAAI 2021, arXiv 2007.03767",
        limits="leaves nobody out; costs accuracy, much of it where data are skewed",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_share(self, "least_agreement")
        require_at_least(self, least_replies=3)

    def screen(
        self,
        shown: ScreenedRound,
        spec: ModelSpec,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Screening:
        """Judge the replies of a round; the score is the share of signs against the vote."""
        del device, state
        few = too_few(shown, self.least_replies)
        if few is not None:
            return few
        names = names_of_weights(spec)
        against = [0] * len(shown.replies)
        arrays: list[dict[str, Tensor]] = [{} for _ in shown.replies]
        size = turned = 0
        for name, old in shown.sent.items():
            if name not in names:
                for reply, kept in zip(shown.replies, arrays, strict=True):
                    kept[name] = reply.arrays[name]
                continue
            votes = _votes(shown, name)
            rate = torch.where(
                votes.abs() < self.least_agreement * len(shown.replies), -1.0, 1.0
            ).double()
            size, turned = size + old.numel(), turned + int((rate < 0).sum())
            for place, reply in enumerate(shown.replies):
                moved = change(reply, shown.sent, name)
                against[place] += int((moved.sign() * votes < 0).sum())
                arrays[place][name] = as_sent(old.double() + rate * moved, old)
        return Screening(
            verdicts=tuple(
                Verdict(score=count / max(size, 1), arrays=edit)
                for count, edit in zip(against, arrays, strict=True)
            ),
            details={"turned": turned / max(size, 1)},
        )


def _votes(shown: ScreenedRound, name: str) -> Tensor:
    """Return the sum of the signs of all updates in one array."""
    votes = torch.zeros(shown.sent[name].shape, dtype=torch.float64)
    for reply in shown.replies:
        votes += change(reply, shown.sent, name).sign()
    return votes
