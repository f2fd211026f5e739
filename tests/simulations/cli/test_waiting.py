import io
from threading import Event, Thread

import pytest
from rich.console import Console

from fl_defense.progress import Progress, counting
from simulations.cli import waiting as module
from simulations.cli.waiting import Now, Rounds, waiting


class Lines(io.StringIO):
    """Tells when so many lines have come."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self.wanted, self.come = wanted, Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.getvalue().count("\n") >= self.wanted:
            self.come.set()
        return written


def test_a_pipe_gets_a_line_whenever_the_time_has_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(3)
    monkeypatch.setattr(module, "errors", Console(file=lines, force_terminal=False))
    with waiting("repairing", first_seconds=0.001):
        assert lines.come.wait(60)
    told = lines.getvalue().splitlines()
    assert told[:3] == ["repairing, 0 s"] * 3


def test_what_is_done_soon_is_not_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(1)
    monkeypatch.setattr(module, "errors", Console(file=lines, force_terminal=False))
    with waiting("repairing", first_seconds=60):
        pass
    assert lines.getvalue() == ""


def test_a_terminal_gets_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(module, "errors", Console(file=shown, force_terminal=True))
    with waiting("repairing"):
        pass
    assert "repairing" in shown.getvalue()


def test_a_line_says_how_far_it_is_and_how_long_it_will_take() -> None:
    now = Now("round 3 of 12")
    assert now.said(7.4) == "round 3 of 12, 7 s"
    now.begin("round 4 of 12", 80.0)
    now.count(Progress(step="distilling", done=50, total=150, seconds=10))
    assert now.said(20) == (
        "round 4 of 12, 20 s, about 1 min 20 s left: distilling, 50 of 150, about 20 s left"
    )
    now.count(Progress(step="distilling", done=150, total=150, seconds=30))
    assert now.said(20) == "round 4 of 12, 20 s, about 1 min 20 s left"
    now.count(Progress(step="asking", done=0, total=1, seconds=30))
    assert now.said(20) == "round 4 of 12, 20 s, about 1 min 20 s left"


def test_what_counts_its_steps_in_another_thread_is_shown() -> None:
    def count() -> None:
        with counting("distilling", 2) as one_more:
            one_more()

    with waiting("repairing") as now:
        thread = Thread(target=count)
        thread.start()
        thread.join(60)
        assert now.said(3) == "repairing, 3 s: distilling, 1 of 2, about 0 s left"


def test_rounds_are_estimated_by_those_that_were_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0, 140.0])
    monkeypatch.setattr(module, "monotonic", lambda: next(clock))
    rounds = Rounds(4)
    # A run that goes on at round 2 tells of it first: when it began, nobody has seen.
    assert rounds.after(1) == ("round 2 of 4", None)
    assert rounds.after(2) == ("round 3 of 4", 20.0)
    assert rounds.after(3) == ("round 4 of 4", 20.0)
    assert rounds.after(4) == ("writing the results", None)
