"""Framing: attackers make honest clients seem to teach the model something."""

from dataclasses import dataclass

from torch import Tensor

from fl_defense.validation import require_at_least, require_share
from simulations.attack.badnets import BadNets
from simulations.attack.context import AttackContext
from simulations.attack.data_poisoning import draw_indices


@dataclass(frozen=True, kw_only=True)
class Framing(BadNets):
    """Beside the backdoor, attackers unlearn a class that honest clients then teach anew.

    A test of defenses that compare a reply with the model sent out: what was unlearned in one round
    is, in the next, raised by the honest clients that hold the class, and by nobody else. Images of
    the framed class that are not stamped get the label of the class after it.
    """

    framed_class: int = 1
    """The class that attackers unlearn."""
    framing_rate: float = 1.0
    """Share of an attacker's images of that class that is relabelled, in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, framed_class=0)
        require_share(self, "framing_rate")

    def poison(
        self, images: Tensor, labels: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor]:
        """Plant the backdoor, then relabel images of the framed class that are left."""
        poisoned, relabeled = super().poison(images, labels, context)
        untouched = (poisoned == images).flatten(1).all(1) & (relabeled == labels)
        framed = untouched & (labels == self.framed_class)
        count = round(self.framing_rate * int(framed.sum()))
        chosen = draw_indices(framed, count, context.generator(self.framed_class))
        relabeled = relabeled.clone()
        relabeled[chosen] = (self.framed_class + 1) % context.num_classes
        return poisoned, relabeled
