"""Patterns are carried on: a few, the proven ones first, and only those that fit."""

from typing import Any

import pytest
import torch

from fl_defense.screens.attribution.memory import Memory, Remembered
from fl_defense.search.patterns import Additive, Patches, Pattern

PATCHES, ADDITIVE = Patches(), Additive()
FAMILIES = (PATCHES, ADDITIVE)
SHAPE = (1, 9, 9)


def remembered(label: int, server_round: int, *, proven: bool = True) -> Remembered:
    code = torch.full(PATCHES.code_shape(SHAPE), 0.5)
    return Remembered(
        pattern=Pattern(family=PATCHES, start=1, code=code, label=label),
        round=server_round,
        is_proven=proven,
    )


def told(memory: Memory) -> list[tuple[int, int]]:
    return [(entry.pattern.label, entry.round) for entry in memory.entries]


def test_the_latest_proven_patterns_stay() -> None:
    old = Memory().with_patterns([remembered(0, 3), remembered(1, 4)], most=2)
    assert told(old) == [(1, 4), (0, 3)]
    assert told(old.with_patterns([remembered(2, 5)], most=2)) == [(2, 5), (1, 4)]


def test_what_is_not_proven_displaces_nothing_that_is() -> None:
    old = Memory().with_patterns([remembered(0, 3)], most=1)
    assert told(old.with_patterns([remembered(1, 9, proven=False)], most=1)) == [(0, 3)]


def test_of_a_family_and_class_the_latest_is_kept() -> None:
    old = Memory().with_patterns([remembered(0, 3)], most=8)
    assert told(old.with_patterns([remembered(0, 4)], most=8)) == [(0, 4)]


def test_a_memory_is_written_and_read() -> None:
    memory = Memory().with_patterns([remembered(0, 3), remembered(1, 2, proven=False)], most=8)
    read = Memory.from_state(memory.to_state(), FAMILIES, SHAPE, 3)
    assert told(read) == told(memory)
    assert [entry.is_proven for entry in read.entries] == [True, False]
    assert torch.equal(read.patterns[0].code, memory.patterns[0].code)
    assert read.patterns[0].family == PATCHES


@pytest.mark.parametrize(
    "damage",
    [
        {"family": "wave"},
        {"family": None},
        {"start": 10_000},
        {"start": -1},
        {"start": 0.5},
        {"label": 3},
        {"round": "3"},
        {"proven": 1},
        {"code": torch.zeros(1, 2, 2)},
        {"code": torch.full((1, 3, 3), torch.nan)},
        {"code": torch.full((1, 3, 3), 2.0)},
        {"code": torch.zeros(1, 3, 3, dtype=torch.float64)},
        {"code": [0.0]},
        {"more": 1},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_a_damaged_memory_is_refused(damage: dict[str, Any]) -> None:
    (row,) = Memory().with_patterns([remembered(0, 3)], most=1).to_state()
    with pytest.raises(ValueError, match="memory"):
        Memory.from_state([row | damage], FAMILIES, SHAPE, 3)


def test_no_list_is_refused() -> None:
    with pytest.raises(ValueError, match="memory"):
        Memory.from_state({}, FAMILIES, SHAPE, 3)
