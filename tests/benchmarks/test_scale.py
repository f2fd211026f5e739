import pytest

from benchmarks import scale
from benchmarks.rows import ROOT, results_of
from benchmarks.scale import Line, fitted, tables

ROWS = [
    {"kind": "wrapped", "weights": 100, "replies": 10, "cpu_seconds": 3.0, "peak_models": 25.0},
    {"kind": "wrapped", "weights": 100, "replies": 20, "cpu_seconds": 5.0, "peak_models": 45.0},
    {"kind": "fedavg", "weights": 100, "replies": 10, "cpu_seconds": 1.0, "peak_models": 20.0},
]


def test_costs_lie_on_a_line_and_grow_with_weights() -> None:
    seconds, models = fitted(ROWS, "wrapped", 200)
    assert seconds == Line(fixed=2.0, per_reply=0.4)
    assert models == Line(fixed=5.0, per_reply=2.0)


def test_one_number_of_replies_is_all_theirs() -> None:
    assert fitted(ROWS, "fedavg", 100)[1].at(30) == 60


def test_replies_that_fit_are_counted() -> None:
    # A model is 0.4 GB: 4 GB hold ten, five of which are there whatever is sent.
    table = scale.server(ROWS, 10, 100_000_000, 4.0)
    assert "| 10 | 2 |" in table


def test_the_page_shows_what_the_command_prints() -> None:
    rows = results_of("server")
    assert tables(rows) in (ROOT / "docs/scale.md").read_text()


def test_more_replies_than_clients_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scale.main(["--clients", "5", "--replies", "6"])
    assert "--replies: at most the 5 clients, got 6" in capsys.readouterr().err


def test_nothing_measured_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "results_of", lambda name: None)
    with pytest.raises(SystemExit):
        scale.main([])
    assert "run `python -m benchmarks.server` first" in capsys.readouterr().err
