"""Writes docs/results.md from the JSON files beside this script: no figure is typed by hand.

    python -m benchmarks.report

Each section names the command that measured it. Run it again after any other benchmark.
"""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from benchmarks import RESULTS, distortions, federations, inspections, loop, repair, speed
from benchmarks import server as server_cost
from fl_defense.atomic_write import replace_file
from fl_defense.search.noise import Noise
from fl_defense.search.warps import Warps
from fl_defense.search.waves import Waves
from simulations.measurement.measured_round import Rates
from simulations.measurement.metrics import columns

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
FEDERATIONS = (
    "digits_repair_only",
    "fashion_mnist_badnets",
    "fashion_mnist_blended",
    "fashion_mnist_noniid",
)
ATTACKS = ("patch", "blended", "sinusoid", "warped")
"""Triggers over which a defense's effectiveness is averaged."""
NEEDS = {
    "none": "–",
    "dhbe": "nothing",
    "deep-sanitizer": "nothing; a network that can be cut in two",
    "deep-sanitizer-quick": "the same",
    "clp": "nothing; BatchNorm",
    "bcu": "nothing (procedural scenes)",
    "bcu on own data": "unlabelled images of the clients' kind",
    "bcu on other data": "unlabelled images of another kind",
    "deep-cleanse": "nothing (procedural scenes); several passes per image at inference",
}
"""What a defense needs beside the model and the shape of its images."""
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Least agreements that are compared; the first is the default."""
HEAD = """# Results

Written by `python -m benchmarks.report` from the JSON files in
[`benchmarks/results`](../benchmarks/results).
Rates are on test images that no defense has seen; ASR and robust accuracy leave out images whose
true class is the target. Negative results stay in the tables; what no table lists was not measured.
"""


def main() -> None:
    """Write the page."""
    sections = [
        HEAD,
        closed_loop(),
        *(federation(name) for name in FEDERATIONS),
        gate(),
        comparison(),
        effectiveness(),
        repairs(),
        section_of_inspections(),
        searched(),
        speeds(),
        memory(),
        server(),
    ]
    page = "\n".join(section.rstrip() + "\n" for section in sections if section)
    replace_file(PAGE, page.encode())


def federation(name: str) -> str:
    """Return the section of a scenario: means over the last three rounds, and each round."""
    results = load(name)
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
        for variant, runs in (load(name) or {}).items():
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


def values(rows: list[dict[str, Any]], name: str, between: str = " or ") -> str:
    """Return the different values that rows have in a field, in order of appearance."""
    found = dict.fromkeys(row.get(name, repair.UNKNOWN) for row in rows)
    return between.join(repair.number(value) for value in found)


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
    figure.savefig(PAGE.with_name(picture), dpi=110)
    return picture


def closed_loop() -> str:
    """Return the section of the loop."""
    return f"""## The loop

`python -m benchmarks.loop`: replies are screened by attribution, the aggregate is repaired where
the screen suspects it, and clients train on that model. Rates of the model that clients are sent,
last three rounds; replies count from round 3 on. "Small" is a third of the images and eight rounds.

{loop.table(loop.load())}
"""


def server() -> str:
    """Return the section of the server's cost."""
    return f"""## What the defense costs a server

`python -m benchmarks.server`: CPU seconds of one aggregation without a repair, and the peak of
memory in models, beside Flower's FedAvg.

{server_cost.table(load("server"))}
"""


def comparison() -> str:
    """Return the section that sets the defenses side by side, data set by data set."""
    rows = [row for row in load("repair") or [] if row["sanitizer"] in NEEDS]
    if not rows:
        return ""
    triggers = list(dict.fromkeys(row["trigger"] for row in rows))
    lines = ["| data | defense | needs | " + " | ".join(triggers) + " |"]
    lines.append("|" + "---|" * (3 + len(triggers)))
    for data in dict.fromkeys(row["data"] for row in rows):
        for name, needs in NEEDS.items():
            cells = [cell(rows, data, name, trigger) for trigger in triggers]
            if any(cells):
                shown = " | ".join(each or "–" for each in cells)
                lines.append(f"| {data} | {name} | {needs} | {shown} |")
    table = "\n".join(lines)
    return f"""## Defenses side by side

Accuracy / ASR / robust accuracy after the repair of one model, means over the seeds that the next
table names; of a clean model, with the patch. A dash: not measured. DeepCleanse leaves the model as
it is: its figures are those of the purifier and the model together.

{table}
"""


def cell(rows: list[dict[str, Any]], data: str, name: str, trigger: str) -> str:
    """Return the three rates of a defense on one kind of model; empty if it was not measured."""
    asked = {"data": data, "sanitizer": name, "trigger": trigger}
    found = [row["after"] for row in rows if asked.items() <= row.items()]
    if not found:
        return ""
    return " / ".join(f"{fmean(rates[metric] for rates in found):.3f}" for metric in columns())


def effectiveness() -> str:
    """Return the section of the defense effectiveness rating (DER) over the triggers."""
    groups: dict[tuple[str, ...], dict[str, dict[int, float]]] = {}
    for row in load("repair") or []:
        if row["sanitizer"] in NEEDS and row["trigger"] in ATTACKS:
            told = ("sanitizer", "data", "model", "max_train")
            place = tuple(repair.number(row.get(name, repair.UNKNOWN)) for name in told)
            by_seed = groups.setdefault(place, {}).setdefault(row["trigger"], {})
            by_seed[row["seed"]] = row["der"]
    lines = ["| defense | data | model | images | seeds | " + " | ".join(ATTACKS) + " | mean |"]
    lines.append("|" + "---|" * (6 + len(ATTACKS)))
    for place, by_trigger in sorted(groups.items()):
        measured = [set(by_trigger.get(trigger, {})) for trigger in ATTACKS]
        seeds = sorted(set.intersection(*measured))
        if seeds:
            means = [fmean(by_trigger[trigger][seed] for seed in seeds) for trigger in ATTACKS]
            numbers = " | ".join(f"{number:.3f}" for number in (*means, fmean(means)))
            lines.append(f"| {' | '.join(place)} | {', '.join(map(str, seeds))} | {numbers} |")
    if len(lines) == 2:
        return ""
    table = "\n".join(lines)
    return f"""## Defense effectiveness over four triggers

DER = (max(0, fall of ASR) - max(0, fall of accuracy) + 1) / 2: 0.5 for doing nothing, 1 for a
removed backdoor at no cost. Seeds with which all four triggers were measured; the other rates of
the same rows stand in the next table.

{table}
"""


def repairs() -> str:
    """Return the section of centrally trained models."""
    rows = load("repair")
    if not rows:
        return ""
    return f"""## Repairing one model

`python -m benchmarks.repair`: centrally trained models. Share of poisoned images:
{values(rows, "poison_rate")}. Target class: {values(rows, "target")}. Test images:
{values(rows, "max_test")}. Device, for a CPU with its threads: {values(rows, "device", "; ")}.
A question mark: the row does not tell.

Before → after, mean over the seeds with their range. Floor: how often a clean model falls for the
trigger. Forwards: images passed through the network, in units of one forward pass. Seconds: wall
clock beside other jobs, so no measure of speed. Peak MiB: of the repair on a GPU, of the whole
process so far on a CPU.

{repair.table(rows)}
"""


def section_of_inspections() -> str:
    """Return the section of the inspections."""
    rows = load("inspections")
    if not rows:
        return ""
    return f"""## Inspecting a model

`python -m benchmarks.inspections`: does an inspection tell backdoored models from clean ones? AUC:
how often a backdoored model's score is above a clean one's. TPR: share of the backdoored models
above the bound that 5 % of the clean ones exceed. Named: share of them whose suspected class is the
target. The trigger search's anomaly is in standard deviations of the logits.

{inspections.table(inspections.current(rows))}
"""


def searched() -> str:
    """Return the section of the whole-image changes that networks react to."""
    rows = load("distortions")
    if not rows:
        return ""
    return f"""## Whole-image changes that networks react to

`python -m benchmarks.distortions`: the largest gain of one class by noise, warps and waves among
the networks of a kind, in standard deviations of the logits. A network reacts to what is above
{Noise().bar:g}, {Warps().bar:g} and {Waves().bar:g}.

{distortions.table(rows)}
"""


def speeds() -> str:
    """Return the section of the time that repairs take."""
    results = load("speed")
    if not results:
        return ""
    return f"""## Speed

`python -m benchmarks.speed`: training and repairs by turns in one process,
{values(results, "repeats")} times; medians, with the range in brackets. What counts is the last
column, for a faster machine trains faster, too: a round in which a client trains on so many images
takes twice as long with the repair.

{speed.table(results)}
"""


def memory() -> str:
    """Return the section of the resident memory over many rounds."""
    result = load("memory")
    if not result:
        return ""
    shown = result["resident_mebibytes"][9::10]
    return f"""## Memory

```bash
python -m benchmarks.memory --rounds {result["rounds"]}
```

{result["rounds"]} rounds of the repaired digits federation in one process, ten clients, with a
short repair and a checkpoint in each round. Resident memory after the warm-up
{result["first"]:.0f} MiB, at the end {result["last"]:.0f} MiB:
{result["growth_per_round"]:.3f} MiB a round. After every tenth round:
{", ".join(f"{value:.0f}" for value in shown)} MiB.
"""


def load(name: str) -> Any:
    """Return a benchmark's JSON, or None if it has not been run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    main()
