"""Puts a report together: reads results folders, fills the template."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from fl_defense.atomic_write import replace_file
from fl_defense.progress import counted
from fl_defense.sanitizers import NoDefense
from simulations.measurement.comparison import Comparison
from simulations.measurement.comparison_tables import tables
from simulations.measurement.confusion import Confusion
from simulations.measurement.finished_runs import FinishedRun, find_runs
from simulations.measurement.measured_round import MeasuredRound
from simulations.measurement.reading import as_written
from simulations.measurement.results_folder import CONFUSION, PICTURES, read_rounds
from simulations.measurement.seals import doubt, seal_from_environment
from simulations.measurement.tables import Table
from simulations.report import figures
from simulations.report.finding import finding
from simulations.report.pictures import as_address, file_as_address, told_of, trigger_on_grey
from simulations.report.strips import WORDS, Strip, strip
from simulations.scenario import ConfigError
from simulations.scenario.load import load_scenario
from simulations.scenario.scenario import Scenario

MOST_PICTURES, MOST_AT_ONCE = 24, 8
"""Found patterns that are kept of a run, and those seen before one asks for more; the latest."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture with a word below it."""

    address: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """What the template shows of one run."""

    label: str
    folder: str
    finding: str
    doubt: str | None
    """In what the run is not as it was written."""
    summary: Mapping[str, Any]
    curves: str
    seconds: str
    strip: Strip
    triggers: list[Picture]
    found: list[Picture]
    """The latest first."""
    confusion: str
    scenario: str


def write_report(folders: Sequence[Path], out: Path, *, trust: bool = False) -> int:
    """Write one HTML file about all finished runs in folders; return how many there are.

    Args:
        folders: results folders, or folders above them.
        out: the page.
        trust: whether the folders' scenarios may name anybody's code, which is then run.

    Raises:
        ConfigError: if there is none, one cannot be read, or the file cannot be written.
    """
    runs = find_runs(folders)
    with as_written(*folders):
        html = _page(runs, trust=trust)
    try:
        replace_file(out, html.encode())
    except OSError as error:
        raise ConfigError([f"--out: {out}: cannot be written ({error.strerror})"]) from error
    return len(runs)


def _page(runs: Sequence[FinishedRun], *, trust: bool) -> str:
    comparison = Comparison(runs=runs)
    labels = _labels(comparison)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("simulations.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.jinja").render(
        title=", ".join(dict.fromkeys(run.summary["scenario"] for run in runs)),
        runs=[
            _section(run, labels[run.folder], index, trust=trust)
            for index, run in enumerate(counted("drawing runs", runs))
        ],
        tables=_tables(comparison),
        side_by_side=_html(figures.side_by_side(comparison), "side-by-side")
        if len(comparison.groups) > 1
        else "",
        most_at_once=MOST_AT_ONCE,
        words=WORDS,
        plotly=get_plotlyjs(),
    )


def _section(run: FinishedRun, label: str, index: int, *, trust: bool) -> RunSection:
    scenario = load_scenario(run.folder / "scenario.yaml", trust_imports=trust)
    rounds = read_rounds(run.folder)
    with as_written(run.folder):
        return _filled(run, scenario, rounds, label, index)


def _filled(
    run: FinishedRun, scenario: Scenario, rounds: list[MeasuredRound], label: str, index: int
) -> RunSection:
    shape = scenario.data.input_shape
    confusion = Confusion.read(run.folder / CONFUSION)
    defended = not isinstance(scenario.defense, NoDefense)
    return RunSection(
        label=label,
        folder=run.folder.name,
        finding=finding(run.summary),
        doubt=doubt(run.folder, seal_from_environment()),
        summary=run.summary,
        curves=_html(figures.curves(rounds, repairs=defended), f"curves-{index}"),
        seconds=_html(figures.seconds(rounds), f"seconds-{index}"),
        strip=strip(rounds, scenario.clients.count),
        triggers=[
            Picture(
                address=as_address(trigger_on_grey(backdoor, shape)),
                caption=f"{place}: true trigger, target {backdoor.target}",
            )
            for place, backdoor in scenario.places_of_backdoors().items()
        ],
        found=[
            Picture(address=file_as_address(path), caption=f"round {number}: {told_of(path)}")
            for number, _, path in _found_in(run.folder)
        ],
        confusion=""
        if confusion is None
        else _html(figures.confusion(confusion), f"confusion-{index}"),
        scenario=scenario.to_yaml(),
    )


def _found_in(folder: Path) -> list[tuple[int, int, Path]]:
    """Return the latest pictures with their round and their number in it, the latest first."""
    found = []
    for path in (folder / PICTURES).glob("*.png"):
        if numbers := re.match(r"round_(\d+)_\D*(\d*)", path.stem):
            found.append((int(numbers[1]), -int(numbers[2] or 0), path))
    return sorted(found, reverse=True)[:MOST_PICTURES]


def _labels(comparison: Comparison) -> dict[Path, str]:
    return {
        run.folder: f"{group.label}, seed {seed}" if comparison.fields
        else f"{run.summary['scenario']}, seed {seed}"
        for group in comparison.groups
        for seed, run in group.runs.items()
    }  # fmt: skip


def _tables(comparison: Comparison) -> list[Table]:
    return list(tables(comparison)) if len(comparison.runs) > 1 else []


def _html(figure: go.Figure, name: str) -> str:
    return str(
        figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=name,
            config={"displayModeBar": False, "responsive": True},
        )
    )
