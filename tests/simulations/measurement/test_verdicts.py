from typing import Any

import pytest

from fl_defense.rounds.records import RoundRecord
from simulations.measurement.measured_round import MeasuredRound
from simulations.measurement.verdicts import judge, left_out, suspected


def screened(malicious: list[int], **weights: dict[int, float]) -> MeasuredRound:
    def said(client: int, weight: float) -> dict[str, Any]:
        return {"client": client, "weight": weight, "score": None, "reason": ""}

    screens = [
        {"screen": name, "verdicts": [said(*each) for each in by_client.items()]}
        for name, by_client in weights.items()
    ]
    out = [{"client": client, "reason": "x"} for by in weights.values()
           for client, weight in by.items() if weight == 0]  # fmt: skip
    details = {"screens": screens, "left_out": out}
    return MeasuredRound(record=RoundRecord(round=1, details=details), malicious=malicious)


def test_verdicts_are_counted_against_the_truth_of_their_round() -> None:
    first = screened([1, 2], Norms={0: 1, 1: 0, 2: 1, 3: 0})
    second = screened([], Norms={0: 1, 1: 1}, Late={0: 0.5, 1: 1})
    found = judge([first, second])
    norms = found["Norms"]
    assert (norms["left_out_malicious"], norms["left_out_honest"]) == (1, 1)
    assert (norms["kept_malicious"], norms["kept_honest"]) == (1, 3)
    assert norms["precision"] == 0.5
    assert norms["recall"] == 0.5
    assert norms["false_positive_rate"] == pytest.approx(1 / 4)
    assert (norms["mean_weight_malicious"], norms["mean_weight_honest"]) == (0.5, 0.75)
    assert found["Late"]["mean_weight_honest"] == 0.75
    assert found["Late"]["mean_weight_malicious"] is None
    assert found["Late"]["precision"] is None
    assert found["Late"]["recall"] is None
    assert found["Late"]["false_positive_rate"] == 0


def test_suspected_and_left_out_clients() -> None:
    measured = screened([], One={0: 1, 1: 0.5, 2: 0})
    assert suspected(measured) == {1, 2}
    assert left_out(measured) == {2}
    verdicts = measured.record.details["screens"][0]["verdicts"]
    verdicts[0] |= {"suspected": True}  # watched, at full weight
    verdicts[1] |= {"suspected": False}  # a screen that weighs everybody
    assert suspected(measured) == {0, 2}
    plain = MeasuredRound(record=RoundRecord(round=1))
    assert suspected(plain) == left_out(plain) == set()
    assert judge([plain]) == {}
