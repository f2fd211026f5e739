import io
from threading import Event

import pytest
from rich.console import Console

from simulations.cli import waiting as module
from simulations.cli.waiting import waiting


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
