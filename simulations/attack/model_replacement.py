"""Model replacement: an update so large that the average becomes the attacker's model."""

from dataclasses import dataclass

from torch import Tensor, nn

from fl_defense.validation import require_at_least, require_positive
from simulations.attack.context import AttackContext, Steps
from simulations.attack.data_poisoning import DataPoisoning
from simulations.attack.updates import Arrays, norm_of, update_of, wholly_scaled


@dataclass(frozen=True, kw_only=True)
class ModelReplacement(DataPoisoning):
    """Attackers scale their update so that the average becomes their model (Bagdasaryan, 2020).

    With n clients a round, m attackers among them and a server that goes `server_rate` of the way,
    the factor is n / (m server_rate). Best in one late round, when honest updates cancel out:
    `attack-rounds: [12]`. BatchNorm's statistics are scaled too: the average is to be the whole
    model, and weights without their statistics answer one class to everything.
    """

    factor: float | None = None
    """Factor on the update; null: the one that replaces the global model."""
    server_rate: float = 1.0
    """Share of the average update by which the server moves: 1 for FedAvg."""
    largest_norm: float | None = None
    """Euclidean norm that the scaled update of the weights may have, so as to pass a norm bound;
    null: any."""
    epochs: int | None = None
    """Passes over an attacker's images; null: the scenario's."""
    learning_rate: float | None = None
    """Of an attacker's training; null: the scenario's. Lower, with more epochs, stays closer to the
    received model, and so costs less accuracy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "server_rate")
        for name in ("factor", "largest_norm", "learning_rate"):
            if getattr(self, name) is not None:
                require_positive(self, name)
        if self.epochs is not None:
            require_at_least(self, epochs=1)

    def train(
        self, model: nn.Module, images: Tensor, labels: Tensor, context: AttackContext
    ) -> float:
        """Train with the attacker's own epochs and learning rate."""
        return context.training.fit(
            model,
            images,
            labels,
            self.steps(model),
            epochs=self.epochs,
            learning_rate=self.learning_rate,
        )

    def steps(self, model: nn.Module) -> Steps:
        """Return the steps of that training, given the received model: honest ones."""
        del model
        return Steps()

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        """Scale the update of the whole model; of the weights no further than `largest_norm`."""
        factor = self.factor
        if factor is None:
            factor = context.num_replies / (len(context.attackers) * self.server_rate)
        if self.largest_norm is not None:
            norm = norm_of(update_of(trained, context.received, context.weights))
            factor = min(factor, self.largest_norm / norm) if norm > 0 else factor
        return wholly_scaled(trained, context.received, factor)
