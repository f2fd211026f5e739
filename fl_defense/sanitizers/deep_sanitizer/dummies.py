"""Dummy features: what DeepSanitizer fine-tunes a head on in place of data."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.model.batches import CHUNK
from fl_defense.progress import counted


@dataclass(frozen=True, kw_only=True, eq=False)
class Dummies:
    """Features at the inspection layer that stand for those of the classes' images."""

    features: Tensor
    """(N, ...)."""
    classes: Tensor
    """(N,): the class that each was given, or made for."""


@dataclass(frozen=True, kw_only=True)
class Balancing:
    """How features of scenes are moved until every class has its share of dummies."""

    steps: int
    """Gradient steps that unsure dummies take towards their class."""
    lr: float
    """Adam's learning rate."""
    anchor_weight: float
    """Weight of a dummy's squared distance from where it started, against its cross-entropy."""
    channel_dropout: float
    """Share of feature channels hidden at random in each step."""
    sure_from: float = 0.5
    """Posterior of its class from which a dummy is sure, and is not moved."""

    @property
    def _sure(self) -> float:
        """The cross-entropy of such a dummy."""
        return -math.log(self.sure_from)

    def dummies(self, teacher: nn.Module, features: Tensor, logits: Tensor) -> Dummies:
        """Give each class N / K of the features, those that the teacher takes for it most readily.

        Where its posterior is below `sure_from`, gradient steps raise it, up to there and no
        further, under channel dropout and tied to the start.

        Args:
            teacher: the suspect's head.
            features: of scenes, (N, ...).
            logits: the teacher's for them, (N, K).
        """
        classes = deal_out(logits.log_softmax(1))
        losses = functional.cross_entropy(logits, classes, reduction="none")  # (N,)
        unsure = (losses > self._sure).nonzero()[:, 0]  # (U,)
        moved, floor = features.clone(), features.min()
        batches = unsure.split(CHUNK) if len(unsure) > 0 else ()
        for batch in counted("moving features of scenes", batches):
            moved[batch] = self._move(teacher, features[batch], classes[batch], floor)
        return Dummies(features=moved, classes=classes)

    def _move(self, teacher: nn.Module, start: Tensor, labels: Tensor, floor: Tensor) -> Tensor:
        moved = start.clone().requires_grad_(True)
        per_channel = (*moved.shape[:2], *[1] * (moved.ndim - 2))
        optimizer = torch.optim.Adam([moved], self.lr)
        for _ in range(self.steps):
            kept = torch.rand(per_channel, device=moved.device) >= self.channel_dropout
            losses = functional.cross_entropy(teacher(moved * kept), labels, reduction="none")
            unsure = losses.detach() > self._sure
            distance = (moved - start).square().sum()
            optimizer.zero_grad(set_to_none=True)
            ((losses * unsure).sum() + self.anchor_weight * distance).backward()
            optimizer.step()
            moved.data.clamp_(min=floor)
        return moved.detach()


def deal_out(log_posteriors: Tensor) -> Tensor:
    """Give each of N rows one of K classes, the surest pairs first, each class N / K times."""
    num, num_classes = log_posteriors.shape
    left = [-(-num // num_classes)] * num_classes
    classes = [-1] * num
    for pair in log_posteriors.flatten().argsort(descending=True, stable=True).tolist():
        row, label = divmod(pair, num_classes)
        if classes[row] < 0 and left[label] > 0:
            classes[row] = label
            left[label] -= 1
    return torch.tensor(classes, device=log_posteriors.device)
