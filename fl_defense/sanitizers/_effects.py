"""How much of what a patch does to the logits is to be unlearned."""

from torch import Tensor

from fl_defense.patch_search import leads


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
