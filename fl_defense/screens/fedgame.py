"""FedGame's soft weights: who reacts to the trigger that is found in the mean weighs less.

Idea: the server inverts a trigger for each class in the mean of all replies, as Neural Cleanse
does: a mask and a pattern that turn images into the class. The class with the smallest mask is the
target. Each reply weighs by the share of images that do *not* turn into it under the trigger.

Reference: Jia, Yuan, Sahabandu, Niu, Rajabi, Ramasubramanian, Li and Poovendran, "FedGame: A
Game-Theoretic Defense against Backdoor Attacks in Federated Learning", NeurIPS 2023. Steps, rate
and weights are those of the authors' settings.

Deviations: images are procedural scenes, where the paper takes some clean or foreign ones. Weights
are factors on numbers of examples. Only the scoring is here, not the game.

Needs: single replies, so no secure aggregation; gradients to images. Cost: `steps` forward and
backward passes of a batch for each class, and one pass over the images for each reply.

Limits: a baseline, no recommendation. Some class always has the smallest mask, so honest replies
that turn images into it lose weight in a round without attackers, too. It sees one trigger in a
round.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.facts import Facts
from fl_defense.model.batches import in_chunks
from fl_defense.model.spec import ModelSpec, Pixels
from fl_defense.model.training import require_image_gradient
from fl_defense.progress import counted
from fl_defense.screens.base import Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.networks import Networks
from fl_defense.state import State
from fl_defense.surrogates.base import Surrogate
from fl_defense.surrogates.familiarity import draw_familiar
from fl_defense.surrogates.scenes import Scenes
from fl_defense.validation import require_at_least, require_declared, require_positive


@dataclass(frozen=True)
class Trigger:
    """A mask (1, H, W) in [0, 1] and a pattern (C, H, W) in [0, 1]."""

    mask: Tensor
    pattern: Tensor

    def apply(self, images: Tensor) -> Tensor:
        """Blend the pattern into images (B, C, H, W) in [0, 1] where the mask is."""
        return (1 - self.mask) * images + self.mask * self.pattern

    @property
    def size(self) -> float:
        """Sum of the mask, in pixels."""
        return float(self.mask.sum())


@dataclass(frozen=True, kw_only=True)
class FedGame(Screen):
    """Weigh replies by how little they react to the smallest trigger found in their mean.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> from fl_defense.screens import Reply
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> sent = spec.build().state_dict()
        >>> reply = Reply(node=7, arrays=sent, num_examples=10.0)
        >>> shown = ScreenedRound(number=1, sent=sent, replies=[reply])
        >>> quick = FedGame(num_images=8, steps=2)
        >>> said = quick.screen(shown, spec, device=torch.device("cpu")).verdicts[0]
        >>> said.weight == 1 - said.score
        True
    """

    surrogate: Surrogate = field(default_factory=Scenes)
    """Where images come from."""
    num_images: int = 200
    """Images that triggers are inverted and tried on, drawn anew in each round."""
    candidates_per_image: int = 2
    """Images drawn for each one kept: those most familiar to the model sent out are kept."""
    steps: int = 100
    """Steps of the inversion for each class, at most."""
    patience: int = 30
    """Steps without a lower loss after which the inversion of a class ends."""
    learning_rate: float = 0.005
    """Step size of Adam; ten times as much finds smaller masks in as many steps."""
    mask_weight: float = 0.01
    """Weight of the mask's sum in the loss, beside the cross-entropy."""
    batch_size: int = 32
    """Images in one step."""

    facts: ClassVar[Facts] = Facts(
        needs="single updates: no secure aggregation; gradients to images",
        changes="weights of replies that react to the trigger found in their mean",
        cost="a hundred steps of inversion for each class",
        paper="Jia et al., NeurIPS 2023; scenes for its images are ours",
        limits="a baseline, no recommendation: some class always has the smallest mask",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(
            self, num_images=1, candidates_per_image=1, steps=1, patience=1, batch_size=1
        )
        require_at_least(self, mask_weight=0)
        require_positive(self, "learning_rate")

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
        """Judge the replies of a round; the score is the share of images that the trigger turns."""
        del state
        networks = Networks(shown, spec, device)
        inputs = draw_familiar(
            self.surrogate, networks.sent(), spec, self.num_images, self.candidates_per_image
        )
        images = spec.pixels.denormalize(inputs).clamp(0, 1)
        aggregate = networks.mean(shown.replies)
        answers = in_chunks(aggregate, inputs)
        if not bool(answers.isfinite().all()):
            return Screening.of_nobody(
                shown, keep_sent="the mean of the replies gives answers that are not finite"
            )
        triggers = [
            self._invert(aggregate, images, label, spec.pixels)
            for label in counted("searching triggers of classes", range(spec.num_classes))
        ]
        label = min(range(spec.num_classes), key=lambda each: triggers[each].size)
        others = images[answers.argmax(1) != label]
        others = images if len(others) == 0 else others
        changed = spec.pixels.normalize(triggers[label].apply(others))
        verdicts = []
        for reply in shown.replies:
            said = in_chunks(networks.reply(reply), changed)
            # Answers that are not finite say nothing in a reply's favour.
            turned = (said.argmax(1) == label) | ~said.isfinite().all(1)
            score = float(turned.double().mean())
            reason = f"the trigger of class {label} turns {score:.0%} of images"
            why = reason if score else ""
            verdicts.append(Verdict(weight=1 - score, score=score, reason=why, suspects=False))
        return Screening(
            verdicts=tuple(verdicts),
            details={"class": label, "mask_sizes": [trigger.size for trigger in triggers]},
            pictures={f"class {label}": triggers[label].apply(torch.zeros_like(images[0])).cpu()},
        )

    def _invert(self, network: nn.Module, images: Tensor, label: int, pixels: Pixels) -> Trigger:
        """Return the trigger of lowest loss that turns images into a class."""
        shape = images.shape[1:]
        mask = torch.randn(1, *shape[1:]).to(images.device).requires_grad_(True)
        pattern = torch.randn(*shape).to(images.device).requires_grad_(True)
        optimizer = torch.optim.Adam([mask, pattern], lr=self.learning_rate)
        best, lowest, idle = _trigger(mask, pattern), float("inf"), 0
        for _ in range(self.steps):
            some = images[torch.randint(len(images), (self.batch_size,)).to(images.device)]
            labels = torch.full((len(some),), label, device=images.device)
            with torch.enable_grad():
                trigger = _trigger(mask, pattern)
                logits = network(pixels.normalize(trigger.apply(some)))
                loss = functional.cross_entropy(logits, labels)
                loss = loss + self.mask_weight * trigger.mask.sum()
            if loss.item() < lowest:
                lowest, idle = loss.item(), 0
                best = Trigger(trigger.mask.detach().clone(), trigger.pattern.detach().clone())
            else:
                idle += 1
                if idle >= self.patience:
                    break
            mask.grad, pattern.grad = torch.autograd.grad(loss, [mask, pattern])
            optimizer.step()
        return Trigger(best.mask.detach(), best.pattern.detach())


def _trigger(mask: Tensor, pattern: Tensor) -> Trigger:
    return Trigger((mask.tanh() + 1) / 2, (pattern.tanh() + 1) / 2)
