"""The loop's benchmark: what it counts, and how it tells it."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import loop
from fl_defense.rounds.records import RoundRecord
from simulations.measurement.measured_round import MeasuredRound
from simulations.scenario.load import load_scenario


def measured(number: int, left_out: tuple[int, ...] = (), asr: float = 0.1) -> MeasuredRound:
    clients = [{"client": client, "reason": "why"} for client in left_out]
    return MeasuredRound(
        record=RoundRecord(
            round=number,
            num_replies=10 - len(left_out),
            num_left_out=len(left_out),
            screen_seconds=1.0,
            train_seconds=10.0,
            details={"left_out": clients} if clients else {},
        ),
        malicious=[4, 6],
        rates={"released": {"accuracy": 0.9, "attack_success_rate": asr, "robust_accuracy": 0.8}},
    )


def test_replies_count_from_round_three_and_rates_over_the_last_three() -> None:
    told = loop.summary(
        [
            measured(1, (0, 1)),
            measured(2, asr=0.5),
            measured(3, (4,)),
            measured(4, (4, 6), 0.2),
            measured(5, (6, 7), 0.3),
        ]
    )
    assert (told["malicious_left_out"], told["malicious_replies"]) == (4, 6)
    assert (told["honest_left_out"], told["honest_replies"]) == (1, 24)
    assert told["last_three"]["attack_success_rate"] == pytest.approx(0.2)
    assert told["by_round"][0]["honest"] == 2


@pytest.mark.parametrize("row", loop.ROWS)
def test_every_row_is_a_scenario(row: str) -> None:
    path, overrides = loop.ROWS[row]
    scenario = load_scenario(Path(path), overrides)
    assert bool(scenario.screens) == ("undefended" not in row)


def test_runs_are_put_in_the_order_of_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "OUT", tmp_path / "loop.json")
    first, second = list(loop.ROWS)[:2]
    runs: list[dict[str, Any]] = [
        {"row": row, "seed": seed} | loop.summary([measured(number) for number in (1, 2, 3)])
        for row, seed in ((second, 0), (first, 1), (first, 0))
    ]
    for run in [*runs, runs[0]]:
        loop.save(run)
    assert [(run["row"], run["seed"]) for run in loop.load()] == [
        (first, 0),
        (first, 1),
        (second, 0),
    ]
    assert f"| {first} | 0, 1 | 0.900 [0.900, 0.900] |" in loop.table(loop.load())
