"""Norm clipping: no client moves the model further than most clients do.

Reference: Sun et al., "Can You Really Backdoor Federated Learning?", 2019, arXiv 1911.07963, which
clips to a fixed bound; the median of the round's own norms as the bound is FLAME's (Nguyen et al.,
USENIX Security 2022).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fl_defense.facts import Facts
from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.updates import (
    edited,
    median_of,
    names_of_weights,
    norm_of,
)
from fl_defense.state import State
from fl_defense.validation import require_declared, require_positive


@dataclass(frozen=True, kw_only=True)
class NormClipping(Screen):
    """Scale back every update that is longer than the bound; nobody is left out.

    Raises:
        ValueError: if the bound is not positive.

    Example:
        >>> from fl_defense.screens import Reply
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> sent = spec.build().state_dict()
        >>> far = {name: value + 1 for name, value in sent.items()}
        >>> reply = Reply(node=7, arrays=far, num_examples=10.0)
        >>> shown = ScreenedRound(number=1, sent=sent, replies=[reply])
        >>> screening = NormClipping(max_norm=1.0).screen(shown, spec, device=torch.device("cpu"))
        >>> bool(screening.verdicts[0].arrays["0.bias"].sub(sent["0.bias"]).max() < 1)
        True
    """

    max_norm: float | None = None
    """Longest update, the L2 norm over all weights; null: the median of the round's replies."""

    facts: ClassVar[Facts] = Facts(
        needs="single updates: no secure aggregation",
        changes="long updates, which are scaled back",
        cost="one norm per reply",
        paper="Sun et al., 2019, arXiv 1911.07963; the median as bound is FLAME's",
        limits="leaves nobody out; a backdoor within the bound passes",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        if self.max_norm is not None:
            require_positive(self, "max_norm")

    def screen(
        self,
        shown: ScreenedRound,
        spec: ModelSpec,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Screening:
        """Clip the updates of the weights; BatchNorm's statistics and counters are no update."""
        del device, state
        weights = names_of_weights(spec)
        norms = [norm_of(reply, shown.sent, weights) for reply in shown.replies]
        bound = self.max_norm
        if bound is None:
            bound = median_of(norms)
        verdicts = [
            Verdict(score=norm)
            if norm <= bound
            else Verdict(
                score=norm,
                reason=f"update of norm {norm:.3g} was clipped to {bound:.3g}",
                arrays=edited(reply, shown.sent, weights, bound / norm),
            )
            for reply, norm in zip(shown.replies, norms, strict=True)
        ]
        return Screening(verdicts=tuple(verdicts), details={"max_norm": bound})
