"""The learning rate over the rounds; pure functions of the round, so that runs can be resumed."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from fl_defense.validation import require_at_least, require_positive, require_share


class LearningRateSchedule(Hashable, Protocol):
    """Says by how much the learning rate is multiplied in a round.

    Example:
        >>> [Step(every=2, decay=0.5).factor(each, rounds=4) for each in (1, 2, 3, 4)]
        [1.0, 1.0, 0.5, 0.5]
    """

    def factor(self, server_round: int, rounds: int) -> float:
        """Return the factor, positive.

        Args:
            server_round: counted from 1.
            rounds: of the whole run.
        """


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same learning rate in every round.

    Example:
        >>> Constant().factor(7, rounds=10)
        1.0
    """

    def factor(self, server_round: int, rounds: int) -> float:
        """Return 1."""
        del server_round, rounds
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """The learning rate falls by a factor every so many rounds.

    Example:
        >>> Step(every=30, decay=0.5).factor(61, rounds=100)
        0.25
    """

    every: int = 30
    """Rounds between two falls; the first is in round `every` + 1."""
    decay: float = 0.1
    """What the learning rate is multiplied by in each fall, in (0, 1]."""

    def __post_init__(self) -> None:
        require_at_least(self, every=1)
        require_positive(self, "decay")
        require_share(self, "decay")

    def factor(self, server_round: int, rounds: int) -> float:
        """Return `decay` to the power of the falls so far."""
        del rounds
        return float(self.decay ** ((server_round - 1) // self.every))


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """The learning rate falls along half a cosine (Loshchilov and Hutter, ICLR 2017).

    Example:
        >>> [round(Cosine().factor(each, rounds=4), 3) for each in (1, 2, 3, 4)]
        [1.0, 0.854, 0.5, 0.146]
    """

    floor: float = 0.0
    """Where it would arrive after the last round, as a share of the learning rate in [0, 1]."""

    def __post_init__(self) -> None:
        require_share(self, "floor")

    def factor(self, server_round: int, rounds: int) -> float:
        """Return 1 in the first round, and `floor` in the round after the last."""
        height = (1 + math.cos(math.pi * (server_round - 1) / rounds)) / 2
        return self.floor + (1 - self.floor) * height


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The learning rate is multiplied by a listed factor in each round.

    Example:
        >>> [Listed(factors=(0.1, 1.0)).factor(each, rounds=3) for each in (1, 2, 3)]
        [0.1, 1.0, 1.0]
    """

    factors: tuple[float, ...]
    """One positive number a round; the last one stays for the rounds after it."""

    def __post_init__(self) -> None:
        wrong = [each for each in self.factors if not each > 0]
        if wrong or not self.factors:
            raise ValueError(f"factors must hold positive numbers, got {list(self.factors)}")

    def factor(self, server_round: int, rounds: int) -> float:
        """Return the round's factor."""
        del rounds
        return self.factors[min(server_round, len(self.factors)) - 1]
