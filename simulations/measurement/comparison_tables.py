"""Tables of compared runs: rates by what differs, differences, the worst case."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from simulations.measurement.comparison import Comparison, Group, Settings, WorstCase
from simulations.measurement.comparison_time import time_tables, time_to_json
from simulations.measurement.finished_runs import find_runs
from simulations.measurement.intervals import Estimate
from simulations.measurement.measured_round import STAGES
from simulations.measurement.tables import FORMATS, Table
from simulations.scenario import ConfigError

Shown = Callable[..., str]
"""Spells an estimate, and with `sign="+"` that of a difference."""


def compare(
    folders: Sequence[Path],
    *,
    stage: str,
    form: str,
    against: str | None,
    interval: str = "t",
) -> str:
    """Return the tables, or JSON.

    Args:
        folders: of runs, or above them.
        stage: whose rates; a key of `STAGES`.
        form: text, markdown, csv, latex or json.
        against: "field=value" of the reference for paired differences; None: no defense, where
            runs with and without one are compared.
        interval: t or bootstrap; JSON has both.

    Raises:
        ConfigError: if an argument is none of its words, or runs cannot be compared.
    """
    for option, known, given in (
        ("--stage", STAGES, stage),
        ("--format", [*FORMATS, "json"], form),
        ("--interval", INTERVALS, interval),
    ):
        if given not in known:
            raise ConfigError([f"{option}: must be one of {', '.join(known)}, got {given!r}"])
    comparison = Comparison(runs=find_runs(folders), stage=stage)
    if form == "json":
        return json.dumps(to_json(comparison, against), indent=2)
    shown = tables(comparison, against, interval)
    return "\n\n".join(FORMATS[form](table) for table in shown)


def tables(
    comparison: Comparison, against: str | None = None, interval: str = "t"
) -> Iterator[Table]:
    """Yield the tables of groups, of paired differences, of worst cases, of rounds and seconds."""
    shown, words = INTERVALS[interval]
    titles = [metric.title for metric in comparison.columns.values()]
    fields = comparison.fields
    yield Table(
        title=f"Means over the last three rounds, {STAGES[comparison.stage]}, {words}",
        head=[*fields, "seeds", *titles],
        rows=[
            [
                *group.cells,
                *(shown(group.estimate(comparison.rate(metric))) for metric in comparison.columns),
            ]
            for group in comparison.groups
        ],
    )
    field, value = _reference(comparison, against)
    pairs = _pairs(comparison, field, value)
    if pairs:
        yield Table(
            title=f"Difference to {field}={value} over common seeds, {words}",
            head=[*fields, "seeds", *titles],
            rows=[
                [
                    *_values(group.settings),
                    str(len(group.runs.keys() & reference.runs.keys())),
                    *(
                        shown(comparison.paired(group, reference, metric), sign="+")
                        for metric in comparison.columns
                    ),
                ]
                for group, reference in pairs
            ],
        )
    cases = comparison.worst_cases()
    if cases:
        yield _worst(comparison, cases, shown)
    yield from time_tables(comparison, shown)


def to_json(comparison: Comparison, against: str | None = None) -> list[dict[str, Any]]:
    """Return the groups as JSON values, each with its difference and place among worst cases."""
    field, value = _reference(comparison, against)
    pairs = {id(group): reference for group, reference in _pairs(comparison, field, value)}
    cases = comparison.worst_cases()
    best = comparison.best(cases)
    return [
        {
            "settings": dict(group.settings),
            "seeds": sorted(group.runs),
            "folders": [str(run.folder) for run in group.runs.values()],
            "stage": comparison.stage,
            **{
                metric: _json(group.estimate(comparison.rate(metric)))
                for metric in comparison.columns
            },
            "difference": None if (reference := pairs.get(id(group))) is None else {
                "to": dict(reference.settings),
                "seeds": sorted(group.runs.keys() & reference.runs.keys()),
                **{
                    metric: _json(comparison.paired(group, reference, metric))
                    for metric in comparison.columns
                },
            },
            "is_worst_case": any(case.worst is group for case in cases),
            "is_best_under_worst_attack": best is not None and best.worst is group,
            **time_to_json(comparison, group),
        }
        for group in comparison.groups
    ]  # fmt: skip


def _pairs(comparison: Comparison, field: str, value: str) -> list[tuple[Group, Group]]:
    """Return each group with its reference, where it has one."""
    return [
        (group, reference)
        for group in comparison.groups
        if field and (reference := comparison.reference_of(group, field, value)) is not None
    ]


def _json(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else vars(found)


def _worst(comparison: Comparison, cases: Sequence[WorstCase], shown: Shown) -> Table:
    best = comparison.best(cases)
    rows = []
    for case in cases:
        attack = dict(pair for pair in case.worst.settings if pair not in case.settings)
        rates = (
            shown(case.worst.estimate(comparison.rate(metric))) for metric in comparison.columns
        )
        name = ", ".join(map(str, attack.values()))
        rows.append([*_values(case.settings), name, *rates, "best" if case is best else ""])
    return Table(
        title="Under the attack that leaves the least robust accuracy",
        head=[
            *(field for field, _ in cases[0].settings),
            "worst attack",
            *(metric.title for metric in comparison.columns.values()),
            "",
        ],
        rows=rows,
    )


def _reference(comparison: Comparison, against: str | None) -> tuple[str, str]:
    if against is None:
        return ("defense.name", "none") if "defense.name" in comparison.fields else ("", "")
    field, equals, value = against.partition("=")
    if not equals or field not in comparison.fields:
        known = ", ".join(comparison.fields) or "none"
        raise ConfigError(
            [f"--against: must be FIELD=VALUE of a field that differs ({known}), got {against!r}"]
        )
    return field, value


def _values(settings: Settings) -> list[str]:
    return ["–" if value is None else str(value) for _, value in settings]


def _with_t(found: Estimate | None, sign: str = "") -> str:
    if found is None:
        return "–"
    spread = "" if found.half_width is None else f" ± {found.half_width:.3f}"
    return f"{found.mean:{sign}.3f}{spread}"


def _with_bootstrap(found: Estimate | None, sign: str = "") -> str:
    if found is None:
        return "–"
    if found.bootstrap is None:
        return f"{found.mean:{sign}.3f}"
    low, high = found.bootstrap
    return f"{found.mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


INTERVALS: dict[str, tuple[Shown, str]] = {
    "t": (_with_t, "± 95 % interval"),
    "bootstrap": (_with_bootstrap, "95 % bootstrap interval"),
}
"""Intervals by name: how an estimate is spelled, and what a title says of it."""
