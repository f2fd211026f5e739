"""Sign flip: malicious clients send the opposite of what they learned."""

from dataclasses import dataclass

from fl_defense.validation import require_positive
from simulations.attack.context import AttackContext
from simulations.attack.malicious_clients import MaliciousClients
from simulations.attack.updates import Arrays, scaled


@dataclass(frozen=True, kw_only=True)
class SignFlip(MaliciousClients):
    """Malicious clients train honestly and send the update with the other sign; untargeted."""

    factor: float = 1.0
    """How many times the flipped update is sent."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "factor")

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        """Turn the update of the weights round."""
        return scaled(trained, context.received, context.weights, -self.factor)
