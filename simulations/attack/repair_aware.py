"""Repair-aware: A3FL whose opponent is the server's own repair."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from fl_defense.sanitizers import DHBE, Sanitizer, apply_sanitizer
from simulations.attack.a3fl import A3FL, OPPONENT
from simulations.attack.context import AttackContext


@dataclass(frozen=True, kw_only=True)
class RepairAware(A3FL):
    """Attackers choose the trigger that survives the server's repair.

    A test of this project's defenses by somebody who knows their code and settings, not their
    random draws: a model with the backdoor is trained, repaired by `sanitizer`, and the trigger's
    pixels are moved so that the repaired model says the target too.
    """

    sanitizer: Sanitizer = field(default_factory=DHBE)
    """The repair that the attackers expect; a defense by name, with its settings."""
    opponent_every: int = 50
    """Steps between two opponents, each of which is a repair."""
    opponent_weight: float = 1.0
    """Weight of the repaired model's answer beside the received model's."""

    def opponent(
        self, images: Tensor, labels: Tensor, wanted: Tensor, step: int, context: AttackContext
    ) -> nn.Module:
        """Return the repaired copy of a model that was trained to react to the trigger."""
        del labels
        model = super().opponent(images, wanted, wanted, step, context)
        draws = context.shared_generator(context.server_round, OPPONENT, step)
        repaired = apply_sanitizer(
            self.sanitizer, model.eval(), context.spec, seed=draws.initial_seed() % 2**31
        )
        return repaired.model

    def opponents_share(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
        """Return 1: this opponent is the one that is expected."""
        del ours, theirs
        return 1.0
