"""Writes docs/results.md from the JSON files beside this script: no figure is typed by hand.

    python -m benchmarks.report

Each section names the command that measured it. Run it again after any other benchmark.
"""

from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import distortions, inspections, loop, networks, repair, report_federations, speed
from benchmarks import server as server_cost
from benchmarks.defenses import SANITIZERS
from benchmarks.repair import values
from benchmarks.rows import results_of
from fl_defense.atomic_write import replace_file
from fl_defense.search.noise import Noise
from fl_defense.search.warps import Warps
from fl_defense.search.waves import Waves
from simulations.metrics import columns

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
ATTACKS = ("patch", "blended", "sinusoid", "warped")
"""Triggers over which a defense's effectiveness is averaged."""
COMPARED = (
    "none",
    "dhbe",
    "deep-sanitizer",
    "deep-sanitizer-quick",
    "clp",
    "bcu",
    "bcu on own data",
    "bcu on other data",
    "deep-cleanse",
)
"""Defenses that are set side by side."""
HEAD = """# Results

Written by `python -m benchmarks.report` from the JSON files in
[`benchmarks/results`](../benchmarks/results).
Rates are on test images that no defense has seen; ASR and robust accuracy leave out images whose
true class is the target. Negative results stay in the tables; what no table lists was not measured.
Each of the commands on this page takes hours.
Outside "Networks of other kinds", rows of DHBE and DeepSanitizer are of their older searches: see
[decision 0015](decisions/0015-patches-replace-and-two-bars.md).
"""


def main() -> None:
    """Write the page."""
    sections = [
        HEAD,
        closed_loop(),
        *(report_federations.federation(name) for name in report_federations.FEDERATIONS),
        report_federations.gate(),
        comparison(),
        effectiveness(),
        repairs(),
        other_networks(),
        section_of_inspections(),
        searched(),
        speeds(),
        memory(),
        server(),
    ]
    page = "\n".join(section.rstrip() + "\n" for section in sections if section)
    replace_file(PAGE, page.encode())


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

{server_cost.table(results_of("server"))}
"""


def comparison() -> str:
    """Return the section that sets the defenses side by side, data set by data set."""
    rows = [row for row in results_of("repair") or [] if row["sanitizer"] in COMPARED]
    if not rows:
        return ""
    triggers = list(dict.fromkeys(row["trigger"] for row in rows))
    lines = ["| data | defense | needs | " + " | ".join(triggers) + " |"]
    lines.append("|" + "---|" * (3 + len(triggers)))
    for data in dict.fromkeys(row["data"] for row in rows):
        for name in COMPARED:
            cells = [cell(rows, data, name, trigger) for trigger in triggers]
            if any(cells):
                shown = " | ".join(each or "–" for each in cells)
                lines.append(f"| {data} | {name} | {needs(name)} | {shown} |")
    table = "\n".join(lines)
    return f"""## Defenses side by side

Accuracy / ASR / robust accuracy after the repair of one model. They are means over the seeds that
the next table names; of a clean model, with the patch. A dash: not measured. DeepCleanse leaves the
model as it is: its figures are those of the purifier and the model together.

{table}
"""


def needs(name: str) -> str:
    """Return what a defense needs, as its class says it; of a control's images they do."""
    defense = SANITIZERS[name]
    images = getattr(getattr(defense, "surrogate", None), "needs", None)
    return images or defense.facts.needs


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
    for row in results_of("repair") or []:
        if row["sanitizer"] in COMPARED and row["trigger"] in ATTACKS:
            fields = ("sanitizer", "data", "model", "max_train")
            place = tuple(repair.number(row.get(name, repair.UNKNOWN)) for name in fields)
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

DER = (max(0, fall of ASR) - max(0, fall of accuracy) + 1) / 2. It is 0.5 for doing nothing, and 1
for a removed backdoor at no cost. Seeds with which all four triggers were measured; the other rates
of the same rows stand in the next table.

{table}
"""


def repairs() -> str:
    """Return the section of centrally trained models."""
    rows = results_of("repair")
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


def other_networks() -> str:
    """Return the section of networks of many kinds and their verdicts."""
    rows = results_of("networks")
    if not rows:
        return ""
    return f"""## Networks of other kinds

`python -m benchmarks.networks --small`: accuracy / ASR / robust accuracy, and the verdict that was
given. A row is held if the ASR is at most {networks.MOST_ASR:g} and accuracy falls by at most
{networks.MOST_LOST:g}. It is held, too, if the caller is told otherwise. A clean network may lose
{networks.MOST_LOST_OF_CLEAN:g}, whatever is told.

{networks.table(rows)}
"""


def section_of_inspections() -> str:
    """Return the section of the inspections."""
    rows = results_of("inspections")
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
    rows = results_of("distortions")
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
    results = results_of("speed")
    if not results:
        return ""
    return f"""## Speed

`python -m benchmarks.speed`: training and repairs by turns in one process,
{values(results, "repeats")} times; medians, with the range in brackets. What counts is the last
column, for a faster machine trains faster, too. A round in which a client trains on so many images
takes twice as long with the repair.

{speed.table(results)}
"""


def memory() -> str:
    """Return the section of the resident memory over many rounds."""
    result = results_of("memory")
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


if __name__ == "__main__":
    main()
