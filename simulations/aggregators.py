"""Flower's aggregation strategies, by name, with the settings that matter here."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from flwr.serverapp import strategy as flower


class Aggregator(Protocol):
    """Builds the strategy that the defense wraps.

    Example:
        >>> strategy = AGGREGATORS["krum"](num_malicious=2).build(num_replies=10, num_clients=10)
        >>> isinstance(strategy, flower.Strategy)
        True
    """

    def check(self, num_replies: int) -> None:
        """Raise ValueError if the strategy cannot work with so many replies per round."""

    def build(self, num_replies: int, num_clients: int) -> flower.Strategy:
        """Return the strategy for rounds of `num_replies` out of `num_clients` clients."""


class _Any:
    """An aggregator that works with any number of replies."""

    def check(self, num_replies: int) -> None:
        """Accept any number of replies."""


@dataclass(frozen=True, kw_only=True)
class FedAvg(_Any):
    """Weighted mean (McMahan et al., 2017).

    Example:
        >>> type(FedAvg().build(num_replies=10, num_clients=20)).__name__
        'FedAvg'
    """

    def build(self, num_replies: int, num_clients: int) -> flower.Strategy:
        """Return Flower's FedAvg."""
        return flower.FedAvg(**sampling(num_replies, num_clients))


@dataclass(frozen=True, kw_only=True)
class FedAvgM(_Any):
    """FedAvg with server momentum (Hsu et al., 2019).

    Example:
        >>> type(FedAvgM(server_momentum=0.9).build(num_replies=10, num_clients=20)).__name__
        'FedAvgM'
    """

    server_learning_rate: float = 1.0
    """Step size on the server."""
    server_momentum: float = 0.5
    """Share of the last step that is kept, in [0, 1)."""

    def __post_init__(self) -> None:
        _require(0 <= self.server_momentum < 1, "server_momentum must be in [0, 1)")
        _require(self.server_learning_rate > 0, "server_learning_rate must be positive")

    def build(self, num_replies: int, num_clients: int) -> flower.Strategy:
        """Return Flower's FedAvgM."""
        return flower.FedAvgM(**asdict(self), **sampling(num_replies, num_clients))


@dataclass(frozen=True, kw_only=True)
class FedAdam(_Any):
    """Adam on the server (Reddi et al., ICLR 2021).

    Example:
        >>> type(FedAdam(eta=0.1).build(num_replies=10, num_clients=20)).__name__
        'FedAdam'
    """

    eta: float = 0.01
    """Server step size."""
    eta_l: float = 0.1
    """Client step size that the method assumes."""
    beta_1: float = 0.9
    """Decay of the first moment."""
    beta_2: float = 0.99
    """Decay of the second moment."""
    tau: float = 0.001
    """Adaptivity: added to the root of the second moment."""

    def __post_init__(self) -> None:
        _require(self.eta > 0 and self.tau > 0, "eta and tau must be positive")

    def build(self, num_replies: int, num_clients: int) -> flower.Strategy:
        """Return Flower's FedAdam."""
        return flower.FedAdam(**asdict(self), **sampling(num_replies, num_clients))


@dataclass(frozen=True, kw_only=True)
class FedYogi(FedAdam):
    """Yogi on the server (Reddi et al., ICLR 2021).

    Example:
        >>> type(FedYogi(eta=0.1).build(num_replies=10, num_clients=20)).__name__
        'FedYogi'
    """

    def build(self, num_replies: int, num_clients: int) -> flower.Strategy:
        """Return Flower's FedYogi."""
        return flower.FedYogi(**asdict(self), **sampling(num_replies, num_clients))


@dataclass(frozen=True, kw_only=True)
class FedProx(_Any):
    """FedAvg whose clients stay near the global model (Li et al., MLSys 2020).

    Example:
        >>> type(FedProx(proximal_mu=0.1).build(num_replies=10, num_clients=20)).__name__
        'FedProx'
    """

    proximal_mu: float = 0.01
    """Weight of the clients' proximal term."""

    def __post_init__(self) -> None:
        _require(self.proximal_mu >= 0, "proximal_mu must be at least 0")

    def build(self, num_replies: int, num_clients: int) -> flower.Strategy:
        """Return Flower's FedProx."""
        return flower.FedProx(**asdict(self), **sampling(num_replies, num_clients))


@dataclass(frozen=True, kw_only=True)
class FedMedian(_Any):
    """Median of each coordinate (Yin et al., ICML 2018).

    Example:
        >>> type(FedMedian().build(num_replies=10, num_clients=20)).__name__
        'FedMedian'
    """

    def build(self, num_replies: int, num_clients: int) -> flower.Strategy:
        """Return Flower's FedMedian."""
        return flower.FedMedian(**sampling(num_replies, num_clients))


@dataclass(frozen=True, kw_only=True)
class FedTrimmedAvg:
    """Mean of each coordinate without its extremes (Yin et al., ICML 2018).

    Example:
        >>> type(FedTrimmedAvg(beta=0.2).build(num_replies=10, num_clients=20)).__name__
        'FedTrimmedAvg'
    """

    beta: float = 0.2
    """Share of values cut off at each end, in [0, 0.5)."""

    def __post_init__(self) -> None:
        _require(0 <= self.beta < 0.5, "beta must be in [0, 0.5)")

    def check(self, num_replies: int) -> None:
        """Refuse a beta that cuts nothing: it would be FedAvg without weights."""
        _require(
            self.beta == 0 or int(self.beta * num_replies) >= 1,
            f"beta {self.beta} cuts no value of {num_replies} replies; raise it",
        )

    def build(self, num_replies: int, num_clients: int) -> flower.Strategy:
        """Return Flower's FedTrimmedAvg."""
        return flower.FedTrimmedAvg(**asdict(self), **sampling(num_replies, num_clients))


@dataclass(frozen=True, kw_only=True)
class Krum:
    """The one update nearest to its neighbours (Blanchard et al., NeurIPS 2017).

    Example:
        >>> Krum(num_malicious=4).check(num_replies=8)
        Traceback (most recent call last):
        ValueError: ...
    """

    num_malicious: int = 2
    """Malicious replies per round to be safe against (f)."""

    def __post_init__(self) -> None:
        _require(self.num_malicious >= 0, "num_malicious must be at least 0")

    def check(self, num_replies: int) -> None:
        """Require n > 2f + 2."""
        least = 2 * self.num_malicious + 3
        _require(
            num_replies >= least,
            f"num-malicious {self.num_malicious} needs at least {least} replies a round "
            f"(n > 2f + 2), got {num_replies}; lower it or ask more clients",
        )

    def build(self, num_replies: int, num_clients: int) -> flower.Strategy:
        """Return Flower's Krum."""
        return flower.Krum(
            num_malicious_nodes=self.num_malicious, **sampling(num_replies, num_clients)
        )


@dataclass(frozen=True, kw_only=True)
class MultiKrum(Krum):
    """Mean of the updates nearest to their neighbours (Blanchard et al., NeurIPS 2017).

    Example:
        >>> type(MultiKrum(num_malicious=2).build(num_replies=10, num_clients=10)).__name__
        'MultiKrum'
    """

    num_select: int | None = None
    """Updates to average; null: all but f."""

    def check(self, num_replies: int) -> None:
        """Require n > 2f + 2 and a selection that exists."""
        super().check(num_replies)
        _require(
            self.num_select is None or 1 <= self.num_select <= num_replies,
            f"num-select must be in 1..{num_replies} or null, got {self.num_select}",
        )

    def build(self, num_replies: int, num_clients: int) -> flower.Strategy:
        """Return Flower's MultiKrum."""
        return flower.MultiKrum(
            num_malicious_nodes=self.num_malicious,
            num_nodes_to_select=self.num_select or num_replies - self.num_malicious,
            **sampling(num_replies, num_clients),
        )


@dataclass(frozen=True, kw_only=True)
class Bulyan:
    """Krum's selection, then a trimmed mean (El Mhamdi et al., ICML 2018).

    Example:
        >>> Bulyan(num_malicious=2).check(num_replies=8)
        Traceback (most recent call last):
        ValueError: ...
    """

    num_malicious: int = 1
    """Malicious replies per round to be safe against (f)."""

    def __post_init__(self) -> None:
        _require(self.num_malicious >= 0, "num_malicious must be at least 0")

    def check(self, num_replies: int) -> None:
        """Require n >= 4f + 3; below it Flower would train nothing, with a warning only."""
        least = 4 * self.num_malicious + 3
        _require(
            num_replies >= least,
            f"num-malicious {self.num_malicious} needs at least {least} replies a round "
            f"(n >= 4f + 3), got {num_replies}; lower it or ask more clients",
        )

    def build(self, num_replies: int, num_clients: int) -> flower.Strategy:
        """Return Flower's Bulyan."""
        return flower.Bulyan(
            num_malicious_nodes=self.num_malicious, **sampling(num_replies, num_clients)
        )


AGGREGATORS: dict[str, type[Aggregator]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedprox": FedProx,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
    "multikrum": MultiKrum,
    "bulyan": Bulyan,
}
"""Aggregators by the name that a scenario gives: Flower's names in lower case."""


def sampling(num_replies: int, num_clients: int) -> dict[str, Any]:
    """Make a strategy ask `num_replies` of `num_clients`, and wait until all have registered.

    With Flower's defaults the first round races with registration and may train two clients only.

    Example:
        >>> sampling(num_replies=5, num_clients=10)["fraction_train"]
        0.5
    """
    return {
        "fraction_train": num_replies / num_clients,
        "min_train_nodes": num_replies,
        "min_available_nodes": num_clients,
        "fraction_evaluate": 0.0,
    }


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
