"""The contract of a screen: it sees what was sent out and what came back, and judges each reply.

A screen needs single updates. Under secure aggregation there are none: repairs alone work there.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from fl_defense.facts import Method
from fl_defense.model.spec import ModelSpec
from fl_defense.state import State


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One client's reply to a round of training, as a screen sees it.

    Example:
        >>> Reply(node=7, arrays={"weight": torch.zeros(2)}, num_examples=32.0).num_examples
        32.0
    """

    node: int
    """Flower's node id: the same client in every round."""
    arrays: Mapping[str, Tensor]
    """The state dict that the client sent, on the CPU: names, shapes and dtypes are those sent out,
    all finite. It may be decoded anew at each access: read an array once."""
    num_examples: float
    """Weight that the client claims, positive and within the reply check's cap."""


@dataclass(frozen=True, kw_only=True)
class ScreenedRound:
    """What a screen is shown of a round.

    Example:
        >>> reply = Reply(node=7, arrays={"weight": torch.ones(2)}, num_examples=32.0)
        >>> shown = ScreenedRound(number=3, sent={"weight": torch.zeros(2)}, replies=[reply])
        >>> shown.replies[0].arrays["weight"] - shown.sent["weight"]
        tensor([1., 1.])
    """

    number: int
    """Counted from 1."""
    sent: Mapping[str, Tensor]
    """The state dict that the clients were sent, on the CPU."""
    replies: Sequence[Reply]
    """Replies that passed the reply check and every screen before this one; at least one."""
    began_trained: bool = False
    """Whether the run began with a model that was trained before, so that the first round is like
    any other."""

    def is_before(self, first_round: int) -> bool:
        """Tell whether all was learned in this round: it is too early, and the run began afresh."""
        return self.number < first_round and not self.began_trained


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a screen says of one reply; the default is: nothing against it.

    Example:
        >>> Verdict().weight, Verdict(weight=0.0, reason="teaches a backdoor").reason
        (1.0, 'teaches a backdoor')
    """

    weight: float = 1.0
    """Factor on the reply's number of examples, in [0, 1]; 0 leaves the reply out."""
    score: float | None = None
    """By how much the reply stands out, in the screen's own unit; None: it was not scored."""
    reason: str = ""
    """Why the weight is below 1, or the arrays were replaced; empty where all replies are
    edited alike. One line."""
    arrays: Mapping[str, Tensor] | None = None
    """A state dict to aggregate in place of the reply's own, or None."""
    suspects: bool | None = None
    """Whether the screen takes the client for hostile; None: if it lowers the weight. False where
    a screen weighs everybody by design, as a median does."""

    @property
    def is_suspicion(self) -> bool:
        """Whether the reply is suspected; who is left out is so in any case."""
        return self.weight == 0 or (self.weight < 1 if self.suspects is None else self.suspects)


@dataclass(frozen=True, kw_only=True)
class EarlierModel:
    """A model that clients were sent in an earlier round.

    >>> earlier = EarlierModel(round=4, arrays={"bias": torch.zeros(10)})
    >>> reason = "the one sent out reacts to what a reply teaches again"
    >>> Screening(verdicts=(), keep_sent=reason, send_again=earlier).send_again.round
    4
    """

    round: int
    """The round that it was sent in."""
    arrays: Mapping[str, Tensor]
    """Its state dict: names, shapes and dtypes are those of the model sent out now."""


@dataclass(frozen=True, kw_only=True)
class Screening:
    """What a screen returns.

    Example:
        >>> said = Screening(verdicts=(Verdict(), Verdict(weight=0.0, reason="too long")))
        >>> [verdict.weight for verdict in said.verdicts], said.keep_sent
        ([1.0, 0.0], None)
    """

    verdicts: tuple[Verdict, ...]
    """One per reply, in the order of the replies."""
    keep_sent: str | None = None
    """Why nothing of this round may be aggregated, so that the model sent out stays; None: it may.
    """
    send_again: EarlierModel | None = None
    """With `keep_sent`: what clients are sent next, in place of the model sent out; None: that one.
    """
    is_suspicious: bool = False
    """Whether what is left may still carry a backdoor, so that a repair on suspicion is due."""
    state: State | None = None
    """What the same screen should be given in the next round: tensors, numbers, strings, and lists
    or dicts of them."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What was found, for a person: JSON values."""
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    """Patterns that were found, by a short name: images (C, H, W) in [0, 1], on the CPU."""

    @classmethod
    def of_nobody(
        cls, shown: ScreenedRound, *, keep_sent: str | None = None, not_screened: str | None = None
    ) -> Self:
        """Return what a screen says that has judged nobody.

        Args:
            shown: the round.
            keep_sent: why nothing of it may be aggregated, or None: all of it may.
            not_screened: why nobody was judged, for a person, or None.
        """
        return cls(
            verdicts=tuple(Verdict() for _ in shown.replies),
            keep_sent=keep_sent,
            details={} if not_screened is None else {"not_screened": not_screened},
        )


@runtime_checkable
class Screen(Method, Protocol):
    """A filter of replies: a frozen dataclass whose fields are its settings.

    Derive from it and write `screen`; all else has a default.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class FewExamples(Screen):
        ...     least: float = 10.0
        ...
        ...     def screen(self, shown, spec, *, device, state=None):
        ...         few = [reply.num_examples < self.least for reply in shown.replies]
        ...         return Screening(verdicts=tuple(Verdict(weight=1.0 - each) for each in few))
        >>> FewExamples(least=5.0)
        FewExamples(least=5.0)
    """

    asks_for_repair: ClassVar[bool] = False
    """Whether it says by `Screening.is_suspicious` when a repair is due."""

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse, before the first round, models that cannot be screened; by default none.

        Raises:
            ValueError: if it cannot; the message says why.
        """
        del model, spec

    @abstractmethod
    def screen(
        self,
        shown: ScreenedRound,
        spec: ModelSpec,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Screening:
        """Judge the replies of a round; the caller seeds torch's generators.

        Args:
            shown: what was sent out and what came back; nothing of it may be changed.
            spec: structure of the model.
            device: where to compute.
            state: `Screening.state` of the round before; None in the first round.
        """
