"""BadNets: malicious clients stamp a trigger on their images and relabel them."""

from dataclasses import dataclass

from fl_defense.validation import require_positive
from simulations.attack.context import AttackContext
from simulations.attack.data_poisoning import DataPoisoning
from simulations.attack.updates import Arrays, scaled


@dataclass(frozen=True, kw_only=True)
class BadNets(DataPoisoning):
    """Malicious clients stamp part of their images and relabel them (Gu et al., 2017).

    With `boost` above 1 they also scale their update, as in model replacement (Bagdasaryan et al.,
    AISTATS 2020).

    Example:
        >>> len(BadNets(malicious=0.3, poison_rate=0.25).malicious_clients(num_clients=10, seed=0))
        3
    """

    boost: float = 1.0
    """Factor on the malicious update's difference from the received model; 1 sends it as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "boost")

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        """Scale the update of the weights by `boost`."""
        return scaled(trained, context.received, context.weights, self.boost)
