"""ALIE: a little is enough, if all attackers send the same."""

from dataclasses import dataclass
from statistics import NormalDist

from fl_defense.validation import require_positive
from simulations.attack.context import AttackContext
from simulations.attack.honest_training import honest_moments
from simulations.attack.malicious_clients import MaliciousClients
from simulations.attack.updates import Arrays, moved


@dataclass(frozen=True, kw_only=True)
class ALIE(MaliciousClients):
    """All send the mean honest update less some standard deviations (Baruch et al., 2019).

    Mean and deviation are those of the attackers' own honest updates, of each weight by itself. The
    number of deviations is the largest that still leaves enough honest updates farther from the
    mean than the attackers' is; untargeted.
    """

    deviations: float | None = None
    """Standard deviations from the mean; null: the paper's, from the numbers of clients."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.deviations is not None:
            require_positive(self, "deviations")

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        """Send what all other attackers send, whatever this one trained."""
        deviations = self.deviations
        if deviations is None:
            deviations = most_deviations(context.num_replies, len(context.attackers))
        mean, spread, whole = honest_moments(context)
        del trained
        update = {name: mean[name] - deviations * spread[name] for name in mean}
        return moved(whole, context.received, update)


def most_deviations(num_replies: int, num_attackers: int) -> float:
    """Return the paper's z for so many replies and attackers among them.

    With n replies, m of attackers, the attackers need s = n // 2 + 1 - m supporters for a majority:
    z is where the normal distribution has (n - m - s) / (n - m) below it, and at least 0.
    """
    honest = max(1, num_replies - num_attackers)
    supporters = max(1, num_replies // 2 + 1 - num_attackers)
    return NormalDist().inv_cdf(max(0.5, (honest - supporters) / honest))
