"""Model replacement: an update so large that the average becomes the attacker's model."""

from dataclasses import dataclass

from fl_defense.validation import require_positive
from simulations.attack.context import AttackContext
from simulations.attack.data_poisoning import DataPoisoning
from simulations.attack.updates import Arrays, norm_of, scaled, update_of


@dataclass(frozen=True, kw_only=True)
class ModelReplacement(DataPoisoning):
    """Attackers scale their update so that the average becomes their model (Bagdasaryan, 2020).

    With n clients a round, m attackers among them and a server that goes `server_rate` of the way,
    the factor is n / (m server_rate). Best in one late round, when honest updates cancel out:
    `attack-rounds: [12]`.
    """

    factor: float | None = None
    """Factor on the update; null: the one that replaces the global model."""
    server_rate: float = 1.0
    """Share of the average update by which the server moves: 1 for FedAvg."""
    largest_norm: float | None = None
    """Euclidean norm that the scaled update may have, so as to pass a norm bound; null: any."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "server_rate")
        for name in ("factor", "largest_norm"):
            if getattr(self, name) is not None:
                require_positive(self, name)

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        """Scale the update of the weights, no further than `largest_norm`."""
        factor = self.factor
        if factor is None:
            factor = context.num_replies / (len(context.attackers) * self.server_rate)
        if self.largest_norm is not None:
            norm = norm_of(update_of(trained, context.received, context.weights))
            factor = min(factor, self.largest_norm / norm) if norm > 0 else factor
        return scaled(trained, context.received, context.weights, factor)
