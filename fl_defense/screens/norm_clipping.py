"""Norm clipping: no client moves the model further than most clients do.

Reference: Sun et al., "Can You Really Backdoor Federated Learning?", 2019, arXiv 1911.07963, which
clips to a fixed bound; the median of the round's own norms as the bound is FLAME's (Nguyen et al.,
USENIX Security 2022).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from fl_defense.facts import Facts
from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Reply, Screen, ScreenedRound, Screening, Verdict
from fl_defense.state import State
from fl_defense.validation import require_declared, require_positive


@dataclass(frozen=True, kw_only=True)
class NormClipping(Screen):
    """Scale back every update that is longer than the bound; nobody is left out.

    Raises:
        ValueError: if the bound is not positive.

    Example:
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

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Accept every model."""
        del model, spec

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
        weights = _names_of_weights(spec)
        norms = [_update_norm(reply, shown.sent, weights) for reply in shown.replies]
        bound = self.max_norm
        if bound is None:
            bound = torch.tensor(norms, dtype=torch.float64).quantile(0.5).item()
        verdicts = [
            Verdict(score=norm)
            if norm <= bound
            else Verdict(
                score=norm,
                reason=f"update of norm {norm:.3g} was clipped to {bound:.3g}",
                arrays=_clipped(reply, shown.sent, weights, bound / norm),
            )
            for reply, norm in zip(shown.replies, norms, strict=True)
        ]
        return Screening(verdicts=tuple(verdicts), details={"max_norm": bound})


@lru_cache(maxsize=4)
def _names_of_weights(spec: ModelSpec) -> frozenset[str]:
    """Return the names of what is trained; a network is built for them once, not in each round."""
    return frozenset(name for name, _ in spec.build().named_parameters())


def _update_norm(reply: Reply, sent: Mapping[str, Tensor], weights: frozenset[str]) -> float:
    """Return the L2 norm of what the client changed in the weights."""
    squares = [
        (reply.arrays[name].double() - sent[name].double()).square().sum()
        for name in sent
        if name in weights
    ]
    return torch.stack(squares).sum().sqrt().item()


def _clipped(
    reply: Reply, sent: Mapping[str, Tensor], weights: frozenset[str], factor: float
) -> dict[str, Tensor]:
    """Return the reply's arrays with the update of the weights scaled by `factor`."""
    clipped = {}
    for name, old in sent.items():
        new = reply.arrays[name]
        if name in weights:
            new = (old.double() + factor * (new.double() - old.double())).to(old.dtype)
        clipped[name] = new
    return clipped
