from typing import Any

import pytest

from fl_defense.rounds.schedule import Schedule


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        (Schedule(), [1, 2, 3, 4, 5, 6, 7]),
        (Schedule(first_round=4), [4, 5, 6, 7]),
        (Schedule(every=3), [1, 4, 7]),
        (Schedule(first_round=2, every=3), [2, 5, 7]),
        (Schedule(first_round=2, every=3, last=False), [2, 5]),
        (Schedule(every=None), [7]),
    ],
)
def test_due_rounds(schedule: Schedule, due: list[int]) -> None:
    assert [number for number in range(1, 8) if schedule.is_due(number, 7)] == due


def test_on_suspicion_alarms_decide_among_due_rounds_and_the_last_is_repaired_anyhow() -> None:
    schedule = Schedule(first_round=2, every=2, on_suspicion="history")
    assert [number for number in range(1, 8) if schedule.is_due(number, 7)] == [7]
    alarmed = [number for number in range(1, 8) if schedule.is_due(number, 7, alarmed=True)]
    assert alarmed == [2, 4, 6, 7]
    assert [number for number in range(1, 5) if schedule.asks(number)] == [2, 3, 4]
    assert not Schedule().asks(3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"first_round": 0}, "first_round must be at least 1, got 0"),
        ({"every": 0}, "every must be at least 1 or null, got 0"),
        ({"on_suspicion": 0.0}, "on_suspicion must be positive, history, screens or null, got 0"),
        (
            {"on_suspicion": "past"},
            "on_suspicion must be positive, history, screens or null, got past",
        ),
        ({"every": None, "on_suspicion": 3.0}, "on_suspicion asks of rounds that are due"),
        ({"every": None, "last": False}, "no round would be repaired"),
        ({"check_every": 0}, "check_every must be at least 1 or null, got 0"),
    ],
)
def test_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**fields)


@pytest.mark.parametrize(
    ("fields", "alarmed", "due"),
    [
        ({}, False, False),
        ({"initial": True}, False, True),
        ({"initial": True, "on_suspicion": 3.0}, False, False),
        ({"initial": True, "on_suspicion": 3.0}, True, True),
        ({"initial": True, "on_suspicion": "screens"}, False, True),
        ({"initial": True, "first_round": 9}, False, True),
    ],
)
def test_the_model_that_a_run_begins_with(fields: Any, alarmed: bool, due: bool) -> None:
    schedule = Schedule(**fields)
    assert schedule.is_due(0, 10, alarmed=alarmed) is due
    asked = schedule.on_suspicion
    assert schedule.asks(0) is (schedule.initial and asked not in (None, "screens"))


@pytest.mark.parametrize(
    ("check_every", "asked"), [(3, [4, 7]), (1, [2, 3, 4, 5, 6, 7, 8]), (None, [])]
)
def test_with_screens_the_aggregate_is_checked_now_and_then(
    check_every: int | None, asked: list[int]
) -> None:
    schedule = Schedule(
        first_round=2, on_suspicion="screens", initial=True, check_every=check_every
    )
    assert [number for number in range(9) if schedule.asks(number)] == asked
    assert schedule.is_due(4, 9, alarmed=True)
    assert not schedule.is_due(4, 9)
