"""The line of a round on the terminal."""

from fl_defense.rounds.records import RoundRecord
from simulations.measurement.measured_round import MeasuredRound
from simulations.measurement.round_table import row


def told(**details: object) -> str:
    return row(MeasuredRound(record=RoundRecord(round=3, details=details)))


def test_a_round_that_keeps_the_model_says_why() -> None:
    assert told(kept_sent="6 of 8 replies stand out").endswith(
        "  model stays: 6 of 8 replies stand out"
    )


def test_a_round_that_goes_back_says_to_which_model() -> None:
    assert told(kept_sent="it was taught", sent_again=2).endswith(
        "  model of round 2 again: it was taught"
    )
