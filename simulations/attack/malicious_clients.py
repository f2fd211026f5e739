"""Who attacks, and in which rounds: the base of all attacks."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from fl_defense.validation import require, require_at_least, require_declared
from simulations.attack.base import Honest


@dataclass(frozen=True, kw_only=True)
class MaliciousClients(Honest):
    """Some clients are malicious in some rounds, and do there what honest ones do.

    An attack derives from this and replaces `poison`, `train` or `craft`.
    """

    malicious: float | tuple[int, ...] = 0.2
    """Share of the clients, drawn from the seed, or a list of partition ids."""
    attackers_per_round: int | None = None
    """Malicious clients that attack in one round, while the others are honest; null: all. With it,
    the share of malicious clients may be 1.0: attackers are then drawn anew from everybody."""
    attackers_taken: Literal["in-turn", "at-random"] = "in-turn"
    """How those of one round are chosen where fewer than all attack."""
    first_round: int = 1
    """First round in which malicious clients attack."""
    last_round: int | None = None
    """Last round in which they attack; null: to the end."""
    every: int = 1
    """They attack in each `every`-th round, counted from the first one."""
    attack_rounds: tuple[int, ...] | None = None
    """The rounds in which they attack, in the place of first, last and every; one: one-shot."""

    def __post_init__(self) -> None:
        require_declared(self)
        if isinstance(self.malicious, float):
            # Everybody may be malicious where not everybody attacks at once.
            everybody = self.attackers_per_round is not None and self.malicious == 1
            if not (0 < self.malicious < 1 or everybody):
                raise ValueError(f"malicious must be a share in (0, 1), got {self.malicious}")
        require_at_least(self, first_round=1, every=1)
        if self.attackers_per_round is not None:
            require_at_least(self, attackers_per_round=1)
        if self.last_round is not None and self.last_round < self.first_round:
            raise ValueError(f"last_round must be at least first_round, got {self.last_round}")
        if self.attack_rounds is not None:
            usable = bool(self.attack_rounds) and min(self.attack_rounds) >= 1
            require(usable, "attack_rounds", "rounds from 1 on", list(self.attack_rounds))
            free = (self.first_round, self.last_round, self.every) == (1, None, 1)
            require(free, "attack_rounds", "given without first_round, last_round and every",
                    list(self.attack_rounds))  # fmt: skip

    def malicious_clients(self, num_clients: int, seed: int) -> tuple[int, ...]:
        """Draw `malicious` of the clients, or return the given ids."""
        if isinstance(self.malicious, float):
            chosen = _drawn(self.malicious, num_clients, seed)
        else:
            chosen = tuple(sorted(set(self.malicious)))
            if any(not 0 <= client < num_clients for client in chosen):
                raise ValueError(f"ids must be in 0..{num_clients - 1}, got {list(chosen)}")
        at_once = min(len(chosen), self.attackers_per_round or num_clients)
        if not 0 < at_once < num_clients:
            who = "everybody" if chosen else "nobody"
            raise ValueError(
                f"{self.malicious} of {num_clients} clients makes {who} malicious; "
                "choose at least one and not all, or attack name none"
            )
        return chosen

    def is_active(self, server_round: int) -> bool:
        """Tell whether the round is in the list, or in the window and one of every so many."""
        if self.attack_rounds is not None:
            return server_round in self.attack_rounds
        since = server_round - self.first_round
        in_window = since >= 0 and server_round <= (self.last_round or server_round)
        return in_window and since % self.every == 0

    def attackers(self, server_round: int, num_clients: int, seed: int) -> tuple[int, ...]:
        """Return who attacks in this round: all malicious clients, or some, in turn or drawn."""
        if not self.is_active(server_round):
            return ()
        clients = self.malicious_clients(num_clients, seed)
        count = self.attackers_per_round
        if count is None or count >= len(clients):
            return clients
        if self.attackers_taken == "at-random":
            return _chosen(clients, count, seed, server_round)
        start = self._attacks_before(server_round) * count
        return tuple(sorted(clients[(start + each) % len(clients)] for each in range(count)))

    def _attacks_before(self, server_round: int) -> int:
        """Count the attacked rounds before this one."""
        if self.attack_rounds is not None:
            return len({number for number in self.attack_rounds if number < server_round})
        return (server_round - self.first_round) // self.every


# Each client of a round asks anew; among ten thousand the draw would cost more than its training.
@lru_cache(maxsize=16)
def _drawn(share: float, num_clients: int, seed: int) -> tuple[int, ...]:
    """Draw a share of the clients."""
    order = np.random.default_rng(seed).permutation(num_clients)
    return tuple(sorted(order[: round(share * num_clients)].tolist()))


@lru_cache(maxsize=16)
def _chosen(clients: tuple[int, ...], count: int, seed: int, server_round: int) -> tuple[int, ...]:
    """Draw so many of the malicious clients for a round."""
    draw = np.random.default_rng((seed, server_round))
    return tuple(sorted(draw.choice(clients, size=count, replace=False).tolist()))
