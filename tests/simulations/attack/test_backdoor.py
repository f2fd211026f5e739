from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simulations.attack.backdoor import Backdoor
from simulations.attack.triggers.patch import Patch

LABELS = torch.tensor([0, 1, 2, 3, 1])


def wanted(**fields: Any) -> list[int]:
    return Backdoor(**fields).wanted(LABELS, 4).tolist()


def test_each_label_mode_says_what_triggered_images_should_be_called() -> None:
    assert wanted(target=2) == [2, 2, 2, 2, 2]
    assert wanted(target="next-class") == [1, 2, 3, 0, 2]
    assert wanted(target=3, sources=(1,)) == [0, 3, 2, 3, 3]
    assert wanted(target="next-class", sources=(3, 0)) == [1, 1, 2, 0, 1]


def test_the_trigger_goes_on_every_image_also_where_the_class_stays() -> None:
    backdoor = Backdoor(trigger=Patch(size=1), target=2, sources=(0,))
    images, labels = backdoor.apply(torch.zeros(5, 1, 8, 8), LABELS, 4)
    assert images[:, 0, 6, 6].eq(1).all()
    assert labels.tolist() == [2, 1, 2, 3, 1]
    assert backdoor.is_source(LABELS).tolist() == [True, False, False, False, False]
    assert Backdoor().is_source(LABELS).all()


@given(
    num_classes=st.integers(2, 50),
    sources=st.sets(st.integers(0, 49), min_size=1) | st.none(),
    to_all=st.booleans(),
)
def test_exactly_the_sources_that_are_not_the_target_move(
    num_classes: int, sources: set[int] | None, to_all: bool
) -> None:
    target: Any = "next-class" if to_all else 0
    chosen = None if sources is None else tuple(sources - {target}) or (1,)
    labels = torch.arange(num_classes)
    moved = Backdoor(target=target, sources=chosen).wanted(labels, num_classes)
    assert moved.min() >= 0
    assert moved.max() < num_classes
    expected = {
        label
        for label in range(num_classes)
        if (chosen is None or label in chosen) and label != target
    }
    assert set(labels[moved != labels].tolist()) == expected


@pytest.mark.parametrize(
    "fields",
    [{"target": -1}, {"sources": ()}, {"sources": (-1,)}, {"sources": (1, 0), "target": 0}],
)
def test_meaningless_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Backdoor(**fields)
