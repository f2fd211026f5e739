"""What runs took, compared: rounds until a backdoor fades, until accuracy is there, seconds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulations.measurement.comparison import Comparison, Group
from simulations.measurement.durability import BOUNDS, MARGIN, rounds_until_accuracy
from simulations.measurement.finished_runs import FinishedRun
from simulations.measurement.intervals import Estimate, estimate
from simulations.measurement.measured_round import MeasuredRound, rate_of
from simulations.measurement.results_folder import read_rounds
from simulations.measurement.tables import Table

Quantity = Callable[[FinishedRun], float | None]


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Rounds until something happened, of those seeds in which it did."""

    rounds: Estimate | None
    """None if it happened for no seed."""
    of: int
    """Seeds in all."""

    def shown(self) -> str:
        """Return the mean, with the seeds that it is of if some never got there."""
        if self.rounds is None:
            return "never"
        count = self.rounds.count
        return f"{self.rounds.mean:.1f}" + ("" if count == self.of else f" ({count} of {self.of})")


def until_asr_below(group: Group, stage: str, bound: float) -> Reached | None:
    """Return the rounds from the attack's end until its success rate is below a bound.

    Returns:
        None if no run of the group was attacked, or the attacks went on to the last round.
    """
    ended = [
        _durability(run, stage).get("rounds_until_asr_below", {}).get(str(bound))
        for run in group.runs.values()
        if asr_area(stage)(run) is not None and not _attacked_to_the_end(run)
    ]
    found = [float(each) for each in ended if each is not None]
    return Reached(rounds=estimate(found) if found else None, of=len(ended)) if ended else None


def asr_area(stage: str) -> Quantity:
    """Return what reads the mean height of the curve of the attack success rate."""
    return lambda run: _durability(run, stage).get("asr_area")


def seconds(phase: str) -> Quantity:
    """Return what reads the seconds of a phase, or of the whole run (total)."""
    return lambda run: run.summary.get("seconds", {}).get(phase)


def share_of_time(phase: str) -> Quantity:
    """Return what reads a phase's share of the run's time."""
    return lambda run: run.summary.get("share_of_time", {}).get(phase)


def until_honest_accuracy(comparison: Comparison, group: Group) -> Reached | None:
    """Return the rounds until the accuracy of the honest runs of the same seeds.

    That is their mean over the last three rounds, less `MARGIN`.

    Returns:
        None if no honest run is compared, or none has a common seed.
    """
    honest = comparison.honest_of(group)
    if honest is None:
        return None
    found, count = [], 0
    for seed in sorted(group.runs.keys() & honest.runs.keys()):
        means = honest.runs[seed].summary["last_three_rounds"]
        wanted = rate_of(means, comparison.stage, "accuracy")
        rounds = _rounds(group.runs[seed].folder)
        if wanted is None or not rounds:
            continue
        count += 1
        round_ = rounds_until_accuracy(rounds, comparison.stage, wanted)
        if round_ is not None:
            found.append(float(round_))
    return Reached(rounds=estimate(found) if found else None, of=count) if count else None


def time_tables(comparison: Comparison, shown: Callable[[Estimate | None], str]) -> Iterator[Table]:
    """Yield the table of durability and that of seconds, if the runs tell them.

    Args:
        comparison: the runs.
        shown: spells an estimate of a share.
    """
    groups, stage = comparison.groups, comparison.stage
    heads = [*comparison.fields, "seeds"]
    if any(_durability(run, stage) for run in comparison.runs):
        yield Table(
            title="How long backdoors last: rounds from the attack's end until ASR is below, mean "
            f"ASR since it began, rounds until the accuracy of honest runs less {MARGIN}",
            head=[*heads, *(f"ASR < {bound}" for bound in BOUNDS), "mean ASR", "honest accuracy"],
            rows=[
                [
                    *group.cells,
                    *(_shown(until_asr_below(group, stage, bound)) for bound in BOUNDS),
                    shown(group.estimate(asr_area(stage))),
                    _shown(until_honest_accuracy(comparison, group)),
                ]
                for group in groups
            ],
        )  # fmt: skip
    phases = phases_of(comparison)
    if phases:
        yield Table(
            title="Seconds of a run, and the share of each phase",
            head=[*heads, "seconds", *phases],
            rows=[
                [
                    *group.cells,
                    _rounded(group.estimate(seconds("total"))),
                    *(_percent(group.estimate(share_of_time(phase))) for phase in phases),
                ]
                for group in groups
            ],
        )


def time_to_json(comparison: Comparison, group: Group) -> dict[str, Any]:
    """Return a group's durability and time as JSON values."""
    stage, phases = comparison.stage, phases_of(comparison)
    there = until_honest_accuracy(comparison, group)
    return {
        "rounds_until_asr_below": {
            str(bound): _json(until_asr_below(group, stage, bound)) for bound in BOUNDS
        },
        "asr_area": _json(group.estimate(asr_area(stage))),
        "rounds_until_honest_accuracy": _json(there),
        "seconds": {
            phase: _json(group.estimate(seconds(phase))) for phase in (*phases, "total")
        },
        "share_of_time": {phase: _json(group.estimate(share_of_time(phase))) for phase in phases},
    }  # fmt: skip


def phases_of(comparison: Comparison) -> list[str]:
    """Return the phases whose seconds some run tells, in their order."""
    return list(
        dict.fromkeys(
            name for run in comparison.runs for name in run.summary.get("share_of_time", {})
        )
    )


def _shown(found: Reached | None) -> str:
    return "–" if found is None else found.shown()


def _attacked_to_the_end(run: FinishedRun) -> bool:
    """Tell whether there was no round after the attack in which it could fade."""
    rounds = _rounds(run.folder)
    return bool(rounds) and bool(rounds[-1].malicious)


def _durability(run: FinishedRun, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = run.summary.get("durability", {}).get(stage, {})
    return found


def _rounds(folder: Path) -> list[MeasuredRound]:
    return read_rounds(folder) if (folder / "rounds.jsonl").exists() else []


def _json(found: Estimate | Reached | None) -> Any:
    if isinstance(found, Reached):
        return {"reached": _json(found.rounds), "seeds": found.of}
    return None if found is None else vars(found)


def _rounded(found: Estimate | None) -> str:
    return "–" if found is None else f"{found.mean:.0f}"


def _percent(found: Estimate | None) -> str:
    return "–" if found is None else f"{found.mean:.0%}"
