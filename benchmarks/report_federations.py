"""The sections of the results page on federations: means, rounds, curves, and the gate."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import federations
from benchmarks.repair import values
from benchmarks.rows import results_of
from simulations.measurement.measured_round import Rates

DOCS = Path(__file__).parents[1] / "docs"
"""Where pictures are drawn."""
FEDERATIONS = (
    "digits_repair_only",
    "fashion_mnist_badnets",
    "fashion_mnist_blended",
    "fashion_mnist_noniid",
)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Least agreements that are compared; the first is the default."""


def federation(name: str) -> str:
    """Return the section of a scenario: means over the last three rounds, and each round."""
    results = results_of(name)
    if not results:
        return ""
    variant, first = next((variant, runs[0]) for variant, runs in results.items())
    runs = [run for runs in results.values() for run in runs]
    return f"""## Federation: {name}

{commands(name, results)}
{values(runs, "rounds")} rounds; {values(runs, "device", "; ")}. Means over the last three
rounds and over the seeds, whose range is in brackets. Seconds are those of the machine as it was,
not of an idle one.

{federations.table(results)}

Round by round, seed {first["seed"]}, {variant}; the last ASR is that of the aggregate of the round
after, before its repair:

{rounds(first["by_round"])}

![accuracy and attack success rate over the rounds]({draw(name, variant, first["by_round"])})
"""


def commands(name: str, results: federations.Results) -> str:
    """Return the commands that measured a scenario's variants, one per choice of seeds."""
    by_seeds: dict[str, list[str]] = {}
    for variant, runs in results.items():
        if variant in federations.VARIANTS:
            seeds = " ".join(str(run["seed"]) for run in runs)
            by_seeds.setdefault(seeds, []).append(f'"{variant}"')
    lines = [
        f"python -m benchmarks.federations configs/scenarios/{name}.yaml "
        f"--seeds {seeds} --variants {' '.join(variants)}"
        for seeds, variants in by_seeds.items()
    ]
    text = "\n".join(["```bash", *lines, "```", ""]) if lines else ""
    gone = [variant for variant in results if variant not in federations.VARIANTS]
    if gone:
        text += (
            f"\nMeasured earlier, with settings that the script no longer has: {'; '.join(gone)}.\n"
        )
    return text


def gate() -> str:
    """Return the section of the gate: what each least agreement refuses."""
    repairs: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for name in FEDERATIONS:
        for variant, runs in (results_of(name) or {}).items():
            asked = [record for run in runs for record in run["by_round"] if was_repaired(record)]
            repairs[not variant.startswith("no attack")] += asked
    if not repairs[True] or not repairs[False]:
        return ""
    lines = [
        "| least agreement | helpful repairs refused | clean repairs refused "
        "| worst loss of accuracy of the clean ones released |",
        "|" + "---|" * 4,
    ]
    helpful = [each for each in repairs[True] if halves_the_asr(each)]
    for least in THRESHOLDS:
        missed = sum(each["agreement"] < least for each in helpful)
        released = [each for each in repairs[False] if each["agreement"] >= least]
        lost = [change(each["rates"], "accuracy") for each in released]
        refused = len(repairs[False]) - len(released)
        worst = f"{max(lost):.3f}" if lost else "–"
        cells = f"{missed} of {len(helpful)} | {refused} of {len(repairs[False])} | {worst}"
        lines.append(f"| {least:g} | {cells} |")
    table = "\n".join(lines)
    return f"""## The gate

What each least agreement would have refused, over the repaired rounds of all the federations above
whose rates before the repair were kept. Helpful: the repair at least halved an ASR of 0.2 or more.
Clean: rounds of federations without attackers. What the default refused when it was measured is
not among them.

{table}
"""


def was_repaired(record: dict[str, Any]) -> bool:
    """Tell whether a round was repaired, and what it was like before is known."""
    known = "accuracy" in record["rates"].get("aggregate", {})
    return record["agreement"] is not None and known and record["accepted"]


def halves_the_asr(record: dict[str, Any]) -> bool:
    """Tell whether the repair took away at least half of an attack that succeeded."""
    before, after = (
        record["rates"][stage]["attack_success_rate"] for stage in ("aggregate", "released")
    )
    return bool(before >= 0.2 and after <= before / 2)


def change(rates: Rates, metric: str) -> float:
    """Return by how much a repair lowered a rate."""
    return rates["aggregate"][metric] - rates["released"][metric]


def rounds(records: list[dict[str, Any]]) -> str:
    """Return the table of the rounds that were repaired."""
    lines = ["| round | accuracy | ASR before → after → next | robust accuracy | agreement |"]
    lines.append("|" + "---|" * 5)
    following: list[dict[str, Any] | None] = [*records[1:], None][: len(records)]
    for record, after in zip(records, following, strict=True):
        if record["agreement"] is None:
            continue
        rates, released = record["rates"], record["rates"]["released"]
        success = [rates[stage]["attack_success_rate"] for stage in ("aggregate", "released")]
        if after is not None:
            success.append(after["rates"]["aggregate"]["attack_success_rate"])
        lines.append(
            f"| {record['round']} | {released['accuracy']:.3f} "
            f"| {' → '.join(f'{rate:.3f}' for rate in success)} "
            f"| {released['robust_accuracy']:.3f} | {record['agreement']:.3f} |"
        )
    return "\n".join(lines)


def draw(name: str, variant: str, records: list[dict[str, Any]]) -> str:
    """Draw a run's curves beside the page; return the picture's name."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    numbers = [record["round"] for record in records]
    for metric, stage, label, style in (
        ("accuracy", "released", "accuracy", "C0-"),
        ("attack_success_rate", "aggregate", "ASR before the repair", "C3--"),
        ("attack_success_rate", "released", "ASR after the repair", "C3-"),
    ):
        curve = [record["rates"][stage][metric] for record in records]
        axes.plot(numbers, curve, style, label=label)
    axes.set(xlabel="round", ylim=(-0.02, 1.02), title=f"{name}, {variant}")
    axes.legend()
    picture = f"{name}-rounds.png"
    figure.savefig((DOCS / picture), dpi=110)
    return picture
