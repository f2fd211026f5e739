"""The page in a real browser: no fault in its scripts, no overflow, dark and printed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.report.page import write_report
from tests.browser import CHROMIUM, Browser
from tests.simulations.report.test_page import write_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about several runs, whose labels are long."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        for share in ("0.1", "0.25"):
            write_run(folder / f"{seed}-{share}", seed, f"attack.poison-rate={share}",
                      f"training.learning-rate={share}")  # fmt: skip
    out = folder / "report.html"
    write_report([folder], out)
    return out


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_fits_its_window_and_raises_nothing(
    width: int, dark: bool, page: Path, browser: Browser
) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.overflow() == 0
    assert browser.errors == []
    charts = browser.ask("document.querySelectorAll('.js-plotly-plot .main-svg').length")
    assert charts >= 2 * (1 + 3 * 4)


def test_what_is_written_stands_out_from_the_paper(page: Path, browser: Browser) -> None:
    for dark, paper in ((False, "rgb(255, 255, 255)"), (True, "rgb(13, 17, 23)")):
        browser.open(page, width=1280, dark=dark)
        style = "getComputedStyle(document.body)"
        assert browser.ask(f"{style}.backgroundColor") == paper
        inks = browser.ask(
            "[...new Set([...document.querySelectorAll('.js-plotly-plot .main-svg text')]"
            ".map(each => getComputedStyle(each).fill))]"
        )
        assert inks == [browser.ask(f"{style}.color")]


def test_a_printed_page_has_paper_and_all_charts(
    page: Path, browser: Browser, tmp_path: Path
) -> None:
    browser.open(page, width=760, media="print")
    assert browser.overflow() == 0
    browser.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
    assert browser.errors == []
