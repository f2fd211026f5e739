"""IPM: updates that turn the average against the honest clients' direction."""

from dataclasses import dataclass

from fl_defense.validation import require_positive
from simulations.attack.context import AttackContext
from simulations.attack.honest_training import honest_moments
from simulations.attack.malicious_clients import MaliciousClients
from simulations.attack.updates import Arrays, moved


@dataclass(frozen=True, kw_only=True)
class IPM(MaliciousClients):
    """All send the mean honest update, negated (inner product manipulation: Xie et al., UAI 2019).

    The mean is that of the attackers' own honest updates. Below (n - m) / m for m attackers of n a
    factor slows learning, above it turns the average round; untargeted.
    """

    factor: float = 0.5
    """How many times the negated mean is sent (the paper's epsilon)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "factor")

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        """Send what all other attackers send, whatever this one trained."""
        del trained
        mean, _, whole = honest_moments(context)
        update = {name: -self.factor * value for name, value in mean.items()}
        return moved(whole, context.received, update)
