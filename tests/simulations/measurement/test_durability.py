import pytest

from fl_defense.rounds.records import RoundRecord
from simulations.measurement.durability import durability, mean_height, rounds_until_accuracy
from simulations.measurement.measured_round import MeasuredRound


def rounds_of(*success: float | None, attacked: tuple[int, ...]) -> list[MeasuredRound]:
    return [
        MeasuredRound(
            record=RoundRecord(round=number),
            malicious=[3] if number in attacked else [],
            rates={} if rate is None else {"sent": {"attack_success_rate": rate}},
        )
        for number, rate in enumerate(success)
    ]


def test_rounds_are_counted_from_the_end_of_the_attack() -> None:
    rounds = rounds_of(0.0, 0.9, 0.9, 0.6, 0.4, 0.1, 0.05, attacked=(1, 2))
    assert durability(rounds, "sent")["rounds_until_asr_below"] == {"0.5": 2, "0.1": 4}


def test_a_backdoor_that_never_fades_has_no_such_round() -> None:
    lasting = rounds_of(0.0, 0.9, 0.8, 0.3, attacked=(1,))
    assert durability(lasting, "sent")["rounds_until_asr_below"] == {"0.5": 2, "0.1": None}
    to_the_end = rounds_of(0.0, 0.9, 0.0, attacked=(1, 2))
    assert durability(to_the_end, "sent")["rounds_until_asr_below"] == {"0.5": None, "0.1": None}


def test_the_area_begins_with_the_attack_and_bridges_rounds_that_were_not_measured() -> None:
    rounds = rounds_of(1.0, 1.0, 0.0, None, 0.5, attacked=(2,))
    # From round 2 to 4: a straight line from 0 to 0.5.
    assert durability(rounds, "sent")["asr_area"] == pytest.approx(0.25)
    assert durability(rounds, "released")["asr_area"] is None


def test_without_an_attack_there_is_no_durability() -> None:
    assert durability(rounds_of(0.0, 0.0, attacked=()), "sent") == {
        "rounds_until_asr_below": {"0.5": None, "0.1": None}, "asr_area": None,
    }  # fmt: skip
    assert mean_height([(1, 0.3)]) is None


def test_accuracy_is_reached_in_the_first_round_that_misses_a_hundredth_at_most() -> None:
    rounds = [
        MeasuredRound(
            record=RoundRecord(round=number),
            rates={} if rate is None else {"sent": {"accuracy": rate}},
        )
        for number, rate in enumerate((0.95, 0.5, None, 0.85, 0.891, 0.95))
    ]
    # Round 0 is the start, round 2 was not measured.
    assert rounds_until_accuracy(rounds, "sent", 0.9) == 4
    assert rounds_until_accuracy(rounds, "sent", 0.93) == 5
    assert rounds_until_accuracy(rounds, "sent", 0.97) is None
    assert rounds_until_accuracy(rounds, "released", 0.5) is None
