"""No attack: the control."""

from dataclasses import dataclass

from simulations.attack.base import Honest


@dataclass(frozen=True, kw_only=True)
class NoAttack(Honest):
    """Everybody is honest: the control.

    Example:
        >>> NoAttack().malicious_clients(num_clients=10, seed=0)
        ()
    """

    def malicious_clients(self, num_clients: int, seed: int) -> tuple[int, ...]:
        """Return nobody."""
        del num_clients, seed
        return ()

    def is_active(self, server_round: int) -> bool:
        """Return False."""
        del server_round
        return False

    def attackers(self, server_round: int, num_clients: int, seed: int) -> tuple[int, ...]:
        """Return nobody."""
        del server_round, num_clients, seed
        return ()
