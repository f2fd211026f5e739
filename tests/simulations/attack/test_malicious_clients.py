from typing import Any

import pytest

from simulations.attack.malicious_clients import MaliciousClients
from simulations.attack.none import NoAttack


def attackers_by_round(attack: MaliciousClients, last: int) -> dict[int, tuple[int, ...]]:
    found = {number: attack.attackers(number, 10, seed=5) for number in range(1, last + 1)}
    return {number: clients for number, clients in found.items() if clients}


def test_malicious_clients_come_from_the_seed_or_a_list() -> None:
    drawn = MaliciousClients(malicious=0.3).malicious_clients(10, seed=5)
    assert len(drawn) == 3
    assert drawn == MaliciousClients(malicious=0.3).malicious_clients(10, seed=5)
    several = {MaliciousClients(malicious=0.3).malicious_clients(10, seed) for seed in range(20)}
    assert len(several) > 10
    assert MaliciousClients(malicious=(7, 2)).malicious_clients(10, seed=5) == (2, 7)
    assert NoAttack().malicious_clients(10, seed=5) == ()
    assert NoAttack().attackers(1, 10, seed=5) == ()


@pytest.mark.parametrize(
    ("malicious", "message"),
    [
        (0.01, "makes nobody malicious"),
        (0.99, "makes everybody malicious"),
        ((), "makes nobody malicious"),
        ((0, 1, 2, 3), "makes everybody malicious"),
        ((4,), r"ids must be in 0\.\.3"),
    ],
)
def test_everybody_or_nobody_malicious_is_refused(malicious: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaliciousClients(malicious=malicious).malicious_clients(4, seed=0)


def test_a_window_may_end_and_may_leave_rounds_out() -> None:
    attack = MaliciousClients(first_round=3, last_round=5)
    assert [number for number in range(1, 9) if attack.is_active(number)] == [3, 4, 5]
    assert MaliciousClients(first_round=2).is_active(1000)
    every = MaliciousClients(first_round=2, every=3, last_round=9)
    assert [number for number in range(1, 12) if every.is_active(number)] == [2, 5, 8]
    assert not NoAttack().is_active(1)


def test_listed_rounds_are_the_only_ones() -> None:
    attack = MaliciousClients(malicious=(2, 7), attack_rounds=(4, 2))
    assert attackers_by_round(attack, 9) == {2: (2, 7), 4: (2, 7)}


def test_attackers_take_turns() -> None:
    attack = MaliciousClients(malicious=(1, 4, 8), attackers_per_round=2, first_round=3, every=2)
    assert attackers_by_round(attack, 8) == {3: (1, 4), 5: (1, 8), 7: (4, 8)}
    dba = MaliciousClients(malicious=(1, 4, 8), attackers_per_round=1, attack_rounds=(3, 5, 7, 9))
    assert attackers_by_round(dba, 9) == {3: (1,), 5: (4,), 7: (8,), 9: (1,)}


def test_attackers_may_be_drawn_anew_from_everybody() -> None:
    attack = MaliciousClients(malicious=1.0, attackers_per_round=2, attackers_taken="at-random")
    assert attack.malicious_clients(10, seed=5) == tuple(range(10))
    found = attackers_by_round(attack, 60)
    assert found == attackers_by_round(attack, 60)
    assert {len(clients) for clients in found.values()} == {2}
    assert {client for clients in found.values() for client in clients} == set(range(10))
    assert attack.attackers(1, 10, seed=6) != attack.attackers(1, 10, seed=5)


@pytest.mark.parametrize(
    "fields",
    [
        {"malicious": 0.0},
        {"malicious": 1.5},
        {"malicious": 1.0},
        {"attackers_per_round": 0},
        {"attackers_taken": "by-lot"},
        {"first_round": 0},
        {"every": 0},
        {"last_round": 2, "first_round": 3},
        {"attack_rounds": ()},
        {"attack_rounds": (0, 3)},
        {"attack_rounds": (3,), "every": 2},
        {"attack_rounds": (3,), "last_round": 9},
    ],
)
def test_meaningless_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        MaliciousClients(**fields)
