"""Tables of compared runs: rates by what differs, differences, the worst case."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from simulations.measurement.comparison import Comparison, Settings, WorstCase, to_json
from simulations.measurement.finished_runs import find_runs
from simulations.measurement.intervals import Estimate
from simulations.measurement.measured_round import STAGES
from simulations.measurement.tables import FORMATS, Table
from simulations.scenario import ConfigError


def compare(folders: Sequence[Path], *, stage: str, form: str, against: str | None) -> str:
    """Return the tables, or JSON.

    Args:
        folders: of runs, or above them.
        stage: whose rates; a key of `STAGES`.
        form: text, markdown, csv, latex or json.
        against: "field=value" of the reference for paired differences; None: no defense, where
            runs with and without one are compared.

    Raises:
        ConfigError: if an argument is none of its words, or runs cannot be compared.
    """
    for option, known, given in (
        ("--stage", STAGES, stage),
        ("--format", [*FORMATS, "json"], form),
    ):
        if given not in known:
            raise ConfigError([f"{option}: must be one of {', '.join(known)}, got {given!r}"])
    comparison = Comparison(runs=find_runs(folders), stage=stage)
    if form == "json":
        return json.dumps(to_json(comparison), indent=2)
    return "\n\n".join(FORMATS[form](table) for table in tables(comparison, against))


def tables(comparison: Comparison, against: str | None = None) -> Iterator[Table]:
    """Yield the table of the groups, of paired differences, and of worst cases."""
    titles = [metric.title for metric in comparison.columns.values()]
    fields = comparison.fields
    yield Table(
        title=f"Means over the last three rounds, {STAGES[comparison.stage]}, ± 95 % interval",
        head=[*fields, "seeds", *titles],
        rows=[
            [
                *_values(group.settings),
                str(len(group.runs)),
                *(_shown(group.estimate(comparison.rate(metric))) for metric in comparison.columns),
            ]
            for group in comparison.groups
        ],
    )
    field, value = _reference(comparison, against)
    pairs = [
        (group, reference)
        for group in comparison.groups
        if field and (reference := comparison.reference_of(group, field, value)) is not None
    ]
    if pairs:
        yield Table(
            title=f"Difference to {field}={value} over common seeds, ± 95 % interval",
            head=[*fields, "seeds", *titles],
            rows=[
                [
                    *_values(group.settings),
                    str(len(group.runs.keys() & reference.runs.keys())),
                    *(
                        _shown(comparison.paired(group, reference, metric), sign="+")
                        for metric in comparison.columns
                    ),
                ]
                for group, reference in pairs
            ],
        )
    cases = comparison.worst_cases()
    if cases:
        yield _worst(comparison, cases)


def _worst(comparison: Comparison, cases: Sequence[WorstCase]) -> Table:
    best = comparison.best(cases)
    rows = []
    for case in cases:
        attack = dict(pair for pair in case.worst.settings if pair not in case.settings)
        rates = (
            _shown(case.worst.estimate(comparison.rate(metric))) for metric in comparison.columns
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


def _shown(found: Estimate | None, sign: str = "") -> str:
    if found is None:
        return "–"
    spread = "" if found.half_width is None else f" ± {found.half_width:.3f}"
    return f"{found.mean:{sign}.3f}{spread}"
