"""Runs beside each other: means over seeds, paired differences, the worst case over attacks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from simulations.measurement.finished_runs import FinishedRun, differing_fields
from simulations.measurement.intervals import Estimate, estimate
from simulations.measurement.measured_round import rate_of
from simulations.metrics import Metric, columns, metrics_named
from simulations.scenario import ConfigError

Settings = tuple[tuple[str, Any], ...]
"""Fields in which groups differ, with a group's values."""

DEFENDING = ("attack", "defense", "screens", "repair")
"""Parts in which an honest undefended run may differ from the run that it is compared with."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in their seed alone."""

    settings: Settings
    runs: Mapping[int, FinishedRun]
    """By seed."""

    @property
    def label(self) -> str:
        """The settings in words."""
        return ", ".join(f"{field}={_word(value)}" for field, value in self.settings) or "all runs"

    @property
    def cells(self) -> list[str]:
        """The settings' values and the number of seeds, as they stand in tables."""
        values = ["–" if value is None else str(value) for _, value in self.settings]
        return [*values, str(len(self.runs))]

    @property
    def is_undefended(self) -> bool:
        """Whether no run has a defense or a screen."""
        return all(
            run.settings.get("defense.name", "none") == "none"
            and not any(field.startswith("screens.") for field in run.settings)
            for run in self.runs.values()
        )

    def estimate(self, quantity: Callable[[FinishedRun], float | None]) -> Estimate | None:
        """Return the mean over the seeds of what was measured; None if nothing was."""
        values = [value for run in self.runs.values() if (value := quantity(run)) is not None]
        return estimate(values) if values else None


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """The attack under which a group of settings does worst."""

    settings: Settings
    """Without those of the attack."""
    worst: Group
    """The group under the attack that leaves the least robust accuracy."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Finished runs by what differs between them.

    Args:
        runs: of one or several scenarios.
        stage: of the models whose rates are compared.
    """

    runs: Sequence[FinishedRun]
    stage: str = "released"

    @cached_property
    def fields(self) -> list[str]:
        """The settings in which the runs differ."""
        return differing_fields(self.runs)

    @cached_property
    def columns(self) -> dict[str, Metric]:
        """The metrics that some run was measured by, by their names in the summaries."""
        means = (run.summary["last_three_rounds"] for run in self.runs)
        names = (name for by_stage in means for rates in by_stage.values() for name in rates)
        return columns(metrics_named(names).values())

    @cached_property
    def groups(self) -> list[Group]:
        """The runs, one group for each combination of settings.

        Raises:
            ConfigError: if two runs have the same settings and seed.
        """
        by_settings: dict[str, tuple[Settings, dict[int, FinishedRun]]] = {}
        for run in self.runs:
            settings = tuple((field, run.settings.get(field)) for field in self.fields)
            _, seeds = by_settings.setdefault(repr(settings), (settings, {}))
            if run.seed in seeds:
                raise ConfigError(
                    [f"{run.folder}: has the settings and the seed of {seeds[run.seed].folder}; "
                     "name each run once"]
                )  # fmt: skip
            seeds[run.seed] = run
        return [Group(settings=each, runs=seeds) for each, seeds in by_settings.values()]

    def rate(self, metric: str) -> Callable[[FinishedRun], float | None]:
        """Return what reads a metric's mean over the last three rounds of a run."""
        return lambda run: rate_of(run.summary["last_three_rounds"], self.stage, metric)

    def paired(self, group: Group, reference: Group, metric: str) -> Estimate | None:
        """Return the mean difference of a group and its reference over their common seeds."""
        rate, differences = self.rate(metric), []
        for seed in sorted(group.runs.keys() & reference.runs.keys()):
            one, other = rate(group.runs[seed]), rate(reference.runs[seed])
            if one is not None and other is not None:
                differences.append(one - other)
        return estimate(differences) if differences else None

    def reference_of(self, group: Group, field: str, value: str) -> Group | None:
        """Return the group that has `value` in a field and else the settings of `group`."""
        wanted = {**dict(group.settings), field: value}
        others = [name for name in wanted if not _same_part(name, field) or name == field]
        for other in self.groups:
            settings = dict(other.settings)
            if other is not group and all(
                str(settings.get(name)) == str(wanted[name]) for name in others
            ):
                return other
        return None

    def honest_of(self, group: Group) -> Group | None:
        """Return the group that nobody attacks: undefended, else with the defense of `group`."""
        settings = dict(group.settings)

        def is_like(other: Group, parts: Sequence[str]) -> bool:
            return all(
                value == settings.get(field)
                for field, value in other.settings
                if field.split(".")[0] not in parts
            )

        honest = [
            other for other in self.groups if dict(other.settings).get("attack.name") == "none"
        ]
        undefended = [
            other for other in honest if other.is_undefended and is_like(other, DEFENDING)
        ]
        return next(
            iter((*undefended, *(each for each in honest if is_like(each, ("attack",))))), None
        )

    def worst_cases(self) -> list[WorstCase]:
        """Return the worst case over the attacks for every choice of the other settings.

        Runs without an attack do not count. Empty if only one attack was run.
        """
        by_rest: dict[str, tuple[Settings, list[Group]]] = {}
        for group in self.groups:
            if dict(group.settings).get("attack.name") == "none":
                continue
            rest = tuple(pair for pair in group.settings if not _same_part(pair[0], "attack"))
            by_rest.setdefault(repr(rest), (rest, []))[1].append(group)
        return [
            WorstCase(settings=rest, worst=min(groups, key=self._robustness))
            for rest, groups in by_rest.values()
            if len(groups) > 1
        ]

    def best(self, cases: Sequence[WorstCase]) -> WorstCase | None:
        """Return the settings that keep most robust accuracy under their worst attack.

        ByzFL's rule (best choice under the worst attack), with robust accuracy in the place of
        accuracy: a ruined model has a low attack success rate, but no robust accuracy.
        """
        return max(cases, key=lambda case: self._robustness(case.worst), default=None)

    def _robustness(self, group: Group) -> float:
        found = group.estimate(self.rate("robust_accuracy"))
        return -1.0 if found is None else found.mean


def _same_part(field: str, part: str) -> bool:
    return field.split(".")[0] == part.split(".")[0]


def _word(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
