"""Suspicion adds up by node and class, and is forgiven."""

from typing import Any

import pytest

from fl_defense.screens.attribution.history import History


def test_suspicion_adds_up_for_one_class() -> None:
    history = History().after([1, 2], [(1, 0)], 0.5).after([1, 2], [(1, 0)], 0.5)
    assert history.of(1, 0) == 1.5
    assert history.of(1, 7) == history.of(2, 0) == 0


def test_suspicion_is_forgotten_by_rounds_in_which_the_node_took_part() -> None:
    history = History().after([1, 2], [(1, 0), (2, 0)], 0.5).after([2], [], 0.5)
    assert (history.of(1, 0), history.of(2, 0)) == (1.0, 0.5)


def test_a_round_counts_once_however_many_patterns_it_has() -> None:
    assert History().after([1], [(1, 0), (1, 0)], 0.5).of(1, 0) == 1.0


def test_what_is_nearly_forgotten_is_dropped() -> None:
    history = History().after([1], [(1, 0)], 0.0)
    for _ in range(5):
        history = history.after([1], [], 0.5)
    assert history.suspicion == {}


def test_a_history_is_written_and_read() -> None:
    history = History().after([1, 2], [(1, 0), (1, 2), (2, 1)], 0.5)
    assert History.from_state(history.to_state(), num_classes=3) == history


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [[1, 0]],
        [["1", 0, 1.0]],
        [[1, 3, 1.0]],
        [[1, 0, float("nan")]],
        [[1, 0, float("inf")]],
        [[1, 0, -1.0]],
    ],
)
def test_a_damaged_history_is_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match="history"):
        History.from_state(rows, num_classes=3)
