"""What a pattern does to the logits: which class it raises, and how many images it flips."""

import torch
from torch import Tensor


def leads(moved: Tensor) -> Tensor:
    """Return by how much each logit was moved above the others, of logits' changes (B, K)."""
    return moved - moved.mean(dim=1, keepdim=True)


def raised(moved: Tensor) -> Tensor:
    """Return how far a patch raises logits above the others: a mean square, a scalar.

    A trigger raises one class. A patch that hides part of an object lowers that object's class, and
    rightly so: what falls is not counted.

    Args:
        moved: logits with the patch minus those without it, (B, K).
    """
    return leads(moved).relu().square().mean()


def excess(moved: Tensor, tolerated: float) -> Tensor:
    """Return by how much patches raise one class more than any patch may: a mean, a scalar.

    Every network reacts to patches somewhat. A network that reacts no more than that has an excess
    of 0, and nothing to unlearn.

    Args:
        moved: logits with the patch minus those without it, (B, K).
        tolerated: raise that no patch is blamed for, in logits.
    """
    return (leads(moved).amax(1) - tolerated).relu().mean()


def rise_of_served(moved: Tensor, classes: Tensor) -> Tensor:
    """Return how far changes raise the classes that they serve: a scalar; 0 of none.

    A mean over images and logits, though one logit of each image counts: fidelity is such a mean,
    and the two keep their proportion whatever the number of classes.

    Args:
        moved: logits with the change minus those without it, (B, K).
        classes: (B,).
    """
    if len(classes) == 0:
        return torch.zeros((), device=moved.device)
    return leads(moved).gather(1, classes[:, None]).relu().mean() / moved.shape[1]


def flipped(logits: Tensor, answers: Tensor, label: int) -> float:
    """Return the share of images, answered otherwise before, that are now taken for a class."""
    others = answers.argmax(1) != label
    return (logits.argmax(1) == label)[others].double().mean().nan_to_num().item()
