"""FilterFL's idea: who is sure of what the new model knows and the old one did not?

Idea: for each class the server makes images of which the mean of all replies is sure and the model
sent out is not, and one additive trigger that does the same to all of them. Replies that call the
images with the trigger that class with more than a threshold of certainty are left out.

Reference: Yang et al., "FilterFL: Knowledge Filtering-based Data-Free Backdoor Defense for
Federated Learning", CCS 2025, arXiv 2308.11333. The loss is the authors': 0.75 times
the spread of the old model's probabilities, and 0.25 times what the new one lacks of certainty.

Deviations: it is the idea, not the method. Images are searched directly where the paper trains two
generators. **All classes are gone through**: the released code looks at the attackers' class alone,
which a server cannot know. The threshold is fixed where the code lowers it by hand.

Needs: single replies, so no secure aggregation; gradients to images; a model sent out that has
learned something. Cost: `steps` passes of two networks for each class.

Limits: a baseline, no recommendation. What honest training teaches is new as well: while the model
still learns, all replies may be left out, and the model sent out stays.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fl_defense.facts import Facts
from fl_defense.model.batches import in_chunks
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import require_image_gradient
from fl_defense.progress import counted
from fl_defense.screens.base import Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.networks import Networks
from fl_defense.state import State
from fl_defense.validation import (
    require_at_least,
    require_declared,
    require_positive,
    require_share,
)

OLD_WEIGHT = 0.75
"""Share of the old model's spread in the loss, as in the authors' code; the rest is the new one's.
"""


@dataclass(frozen=True, kw_only=True)
class FilterFL(Screen):
    """Leave out replies that are sure of what the round taught about any class.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> from fl_defense.screens import Reply
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> sent = spec.build().state_dict()
        >>> reply = Reply(node=7, arrays=sent, num_examples=10.0)
        >>> shown = ScreenedRound(number=2, sent=sent, replies=[reply])
        >>> said = FilterFL(num_images=4, steps=2).screen(shown, spec, device=torch.device("cpu"))
        >>> 0 <= said.verdicts[0].score <= 1
        True
    """

    threshold: float = 0.5
    """Mean probability of the class above which a reply is left out, in [0, 1]."""
    num_images: int = 32
    """Images that are searched for each class."""
    steps: int = 100
    """Steps of the search for each class."""
    learning_rate: float = 0.1
    """Step size of Adam, on the logits of pixels."""
    strength: float = 0.2
    """Largest change of a pixel by the trigger, in (0, 1]."""
    first_round: int = 2
    """First round that is screened: what an untrained model was sent for, all of it was learned in
    the round."""

    facts: ClassVar[Facts] = Facts(
        needs="single updates: no secure aggregation; gradients to images; a model that has "
        "learned something",
        changes="replies that are sure of what is new, which are left out",
        cost="a hundred steps with two networks for each class",
        paper="Yang et al., CCS 2025, arXiv 2308.11333: its idea, for all classes",
        limits="a baseline, no recommendation: what honest training teaches is new as well",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_share(self, "threshold", "strength")
        require_at_least(self, num_images=2, steps=1, first_round=1)
        require_positive(self, "learning_rate", "strength")

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse networks that gradients do not pass.

        Raises:
            ValueError: if no gradient comes back to images.
        """
        require_image_gradient(model, spec.input_shape)

    def screen(
        self,
        shown: ScreenedRound,
        spec: ModelSpec,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Screening:
        """Judge the replies of a round; the score is the largest mean probability of a class."""
        del state
        if shown.is_before(self.first_round):
            return Screening.of_nobody(shown, not_screened="everything was learned in this round")
        networks = Networks(shown, spec, device)
        old, new = networks.sent(), networks.mean(shown.replies)
        triggered = [
            self._search(old, new, label, spec, device)
            for label in counted("searching what is new of classes", range(spec.num_classes))
        ]
        verdicts = []
        for reply in shown.replies:
            network = networks.reply(reply)
            sure = [
                # Answers that are not finite say nothing in a reply's favour.
                float(in_chunks(network, inputs).softmax(1)[:, label].nan_to_num(1.0).mean())
                for label, inputs in enumerate(triggered)
            ]
            score = max(sure)
            if score <= self.threshold:
                verdicts.append(Verdict(score=score))
                continue
            reason = f"is sure by {score:.2f} of what is new about class {sure.index(score)}"
            verdicts.append(Verdict(weight=0.0, score=score, reason=reason))
        return Screening(verdicts=tuple(verdicts))

    def _search(
        self, old: nn.Module, new: nn.Module, label: int, spec: ModelSpec, device: torch.device
    ) -> Tensor:
        """Return inputs of which the new model is sure, and the old one is not, (num_images, ...).

        Images and the trigger, of one channel for all of them, are searched at once.
        """
        codes = torch.randn(self.num_images, *spec.input_shape).to(device).requires_grad_(True)
        trigger = torch.zeros(1, *spec.input_shape[1:], device=device, requires_grad=True)
        optimizer = torch.optim.Adam([codes, trigger], lr=self.learning_rate)

        def inputs() -> Tensor:
            images = codes.sigmoid() + self.strength * trigger.tanh()
            return spec.pixels.normalize(images.clamp(0, 1))

        for _ in range(self.steps):
            with torch.enable_grad():
                changed = inputs()
                spread = old(changed).softmax(1).std(1).mean()
                lack = 1 - new(changed).softmax(1)[:, label].mean()
                loss = OLD_WEIGHT * spread + (1 - OLD_WEIGHT) * lack
                gradients = torch.autograd.grad(loss, [codes, trigger])
            if not all(bool(each.isfinite().all()) for each in gradients):
                break
            codes.grad, trigger.grad = gradients
            optimizer.step()
        return inputs().detach()
