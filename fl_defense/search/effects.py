"""What a pattern does to the logits: which class gains, and how many images it flips."""

import torch
from torch import Tensor


def gain_over_mean(change: Tensor) -> Tensor:
    """Return by how much each logit gains on the mean of an image's logits, (B, K).

    Args:
        change: logits with the pattern minus those without it, (B, K).

    Example:
        >>> gain_over_mean(torch.tensor([[3.0, 0.0, 0.0]]))
        tensor([[ 2., -1., -1.]])
    """
    return change - change.mean(dim=1, keepdim=True)


def squared_gain(change: Tensor) -> Tensor:
    """Return the mean square of all gains of logits: a scalar.

    A trigger lifts one class. A patch that hides part of an object lowers that object's class, and
    rightly so: losses are not counted.

    Args:
        change: logits with the patch minus those without it, (B, K).
    """
    return gain_over_mean(change).relu().square().mean()


def excess_gain(change: Tensor, tolerated: float) -> Tensor:
    """Return by how much the largest gain of an image exceeds the tolerated one: a mean, a scalar.

    Every network reacts to patches somewhat. A network that reacts no more than that has an excess
    of 0, and nothing to unlearn.

    Args:
        change: logits with the patch minus those without it, (B, K).
        tolerated: gain that no patch is blamed for, in logits.

    Example:
        >>> excess_gain(torch.tensor([[3.0, 0.0, 0.0]]), tolerated=0.5)
        tensor(1.5000)
    """
    return (gain_over_mean(change).amax(1) - tolerated).relu().mean()


def gain_of_suspected(change: Tensor, classes: Tensor) -> Tensor:
    """Return how much the suspected classes gain: a scalar; 0 of no images.

    A mean over images and logits, though one logit of each image counts: fidelity is such a mean,
    and the two keep their proportion whatever the number of classes.

    Args:
        change: logits with the pattern minus those without it, (B, K).
        classes: the suspected class of each image's pattern, (B,).
    """
    if len(classes) == 0:
        return torch.zeros((), device=change.device)
    gains = gain_over_mean(change).gather(1, classes[:, None])
    return gains.relu().mean() / change.shape[1]


def flip_rate(logits: Tensor, plain_logits: Tensor, label: int) -> float:
    """Return the share of images of other classes that a pattern turns into a class, in [0, 1].

    Args:
        logits: with the pattern, (B, K).
        plain_logits: without it, (B, K).
        label: the class; 0 is returned if all images are taken for it without the pattern.

    Example:
        >>> flip_rate(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0]] * 2), 1)
        0.5
    """
    others = plain_logits.argmax(1) != label
    return (logits.argmax(1) == label)[others].double().mean().nan_to_num().item()
