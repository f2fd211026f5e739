"""Weak differential privacy: clip to a fixed norm, and add a little noise to the mean.

Idea: a bound limits how far one client moves the model, and noise blurs the fine changes that a
backdoor within the bound is made of. The noise is far too small to keep anything private, hence
weak.

Reference: Sun et al., "Can You Really Backdoor Federated Learning?", 2019, arXiv 1911.07963. The
noise is the paper's; the bound is that of later comparisons.

Deviations: norm and noise are over trained parameters, BatchNorm's statistics left aside. The noise
is drawn once and added to every reply, so that their mean has it once.

Needs: single replies, so no secure aggregation. Cost: one norm and one draw of noise per reply.

Limits: nobody is left out; a backdoor within the bound passes the clipping, and the noise costs
accuracy in every round. Both settings are absolute: they must fit the network.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fl_defense.facts import Facts
from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.updates import edited, names_of_weights, noise_for, norm_of
from fl_defense.state import State
from fl_defense.validation import require_at_least, require_declared, require_positive


@dataclass(frozen=True, kw_only=True)
class WeakDP(Screen):
    """Clip updates to a fixed norm and add Gaussian noise to their mean.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> from fl_defense.screens import Reply
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> sent = {name: value.clone() for name, value in spec.build().state_dict().items()}
        >>> reply = Reply(node=7, arrays={k: v + 9 for k, v in sent.items()}, num_examples=10.0)
        >>> shown = ScreenedRound(number=1, sent=sent, replies=[reply])
        >>> said = WeakDP(noise=0.0).screen(shown, spec, device=torch.device("cpu"))
        >>> said.verdicts[0].reason
        'update of norm 193 was clipped to 5'
    """

    max_norm: float = 5.0
    """Longest update, the L2 norm over all weights."""
    noise: float = 0.025
    """Standard deviation of the noise in each weight; 0: none."""

    facts: ClassVar[Facts] = Facts(
        needs="single updates: no secure aggregation",
        changes="long updates, which are scaled back; all weights, by noise",
        cost="one norm and one draw of noise",
        paper="Sun et al., 2019, arXiv 1911.07963",
        limits="leaves nobody out; noise costs accuracy; both settings must fit the network",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_positive(self, "max_norm")
        require_at_least(self, noise=0)

    def screen(
        self,
        shown: ScreenedRound,
        spec: ModelSpec,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Screening:
        """Clip and blur the replies of a round; the score is the norm of the update."""
        del device, state
        names = names_of_weights(spec)
        noise = noise_for(shown.sent, names, self.noise) if self.noise > 0 else None
        verdicts = []
        for reply in shown.replies:
            norm = norm_of(reply, shown.sent, names)
            is_long = norm > self.max_norm
            if not is_long and noise is None:
                verdicts.append(Verdict(score=norm))
                continue
            factor = self.max_norm / norm if is_long else 1.0
            reason = f"update of norm {norm:.3g} was clipped to {self.max_norm:.3g}"
            arrays = edited(reply, shown.sent, names, factor, noise)
            verdicts.append(Verdict(score=norm, reason=reason if is_long else "", arrays=arrays))
        return Screening(verdicts=tuple(verdicts))
