"""What long steps say of themselves: to who listens, else to the log, and never too often."""

import pytest

from fl_defense import progress
from fl_defense.inspections import FreeEagle
from fl_defense.progress import Progress, counted, counting, listening
from fl_defense.testing import small_spec


def test_the_log_is_told_after_some_seconds_and_whenever_the_time_has_doubled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    caplog.set_level("INFO", logger="flwr.fl_defense")
    assert list(counted("distilling", "x" * 24)) == ["x"] * 24
    # The clock is read once at the beginning, once before the first item, then after each.
    assert [each.getMessage() for each in caplog.records] == [
        "distilling, 4 of 24, about 25 s left",
        "distilling, 9 of 24, about 17 s left",
        "distilling, 19 of 24, about 5 s left",
    ]


def test_a_short_step_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="flwr.fl_defense")
    assert list(counted("distilling", range(3))) == [0, 1, 2]
    assert caplog.records == []


def test_who_listens_is_told_everything_and_the_log_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.0)
    caplog.set_level("INFO", logger="flwr.fl_defense")
    outer: list[Progress] = []
    inner: list[Progress] = []
    with listening(outer.append):
        with listening(inner.append), counting("asking", 2) as one_more:
            one_more()
        with pytest.raises(KeyError), listening(inner.append):
            raise KeyError
        list(counted("asking again", [1]))
    assert [(each.step, each.done, each.total) for each in inner] == [
        ("asking", 0, 2), ("asking", 1, 2),
    ]  # fmt: skip
    assert [each.step for each in outer] == ["asking again"] * 2
    assert caplog.records == []


def test_nobody_knows_how_long_the_first_will_take() -> None:
    assert Progress(step="x", done=0, total=2, seconds=9).seconds_left is None
    assert str(Progress(step="x", done=0, total=2, seconds=9)) == "x, 0 of 2"


def test_an_inspection_counts_its_steps() -> None:
    spec, told = small_spec(), list[Progress]()
    with listening(told.append):
        FreeEagle(steps=3).inspect(spec.build().eval(), spec, seed=0)
    counts = [each.done for each in told if each.step == "moving features of classes"]
    assert counts == [0, 1, 2, 3]
