"""Measures inspections: how well their anomalies tell backdoored models from clean ones.

    python -m benchmarks.inspections --data digits fashion-mnist --num 20

Trains `--num` small networks of each kind (clean, a patch that turns every class into class 0, a
patch that turns class 1 alone into class 0), inspects each, writes one JSON file and prints a
markdown table. AUC: how often a backdoored model's score is above a clean one's. TPR: share of
backdoored models above the bound that 5 % of the clean ones exceed. Named: share of backdoored
models whose suspected class is the target.
"""

import argparse
import os
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks import RESULTS
from benchmarks.rows import provenance, read, write
from benchmarks.victims import MODELS, Farm, Setting, say
from fl_defense.inspections import FreeEagle, Inspection, TriggerSearch
from fl_defense.model.deployed import DeployedModel
from fl_defense.rounds.suspicion import calibrated_bound

SMALL: dict[str, dict[str, Any]] = {
    "digits": {"max_train": None, "epochs": 8, "batch_size": 64},
    "fashion-mnist": {"max_train": 3000, "epochs": 5, "batch_size": 64},
}
"""Training that makes a small network good enough to judge, in seconds."""
KINDS: dict[str, dict[str, Any]] = {
    "clean": {"trigger": "clean"},
    "class-agnostic": {"trigger": "patch"},
    "class-specific": {"trigger": "patch", "source": 1, "poison_rate": 0.05},
}
INSPECTIONS: dict[str, Inspection] = {"trigger-search": TriggerSearch(), "freeeagle": FreeEagle()}
SCORES = ("anomaly", "cell_anomaly", "flip_rate")
"""Figures of an inspection that may tell a backdoored model, where it has them."""
FALSE_POSITIVE_RATE = 0.05


def main() -> None:
    """Train, inspect, write JSON, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=SMALL, default=list(SMALL))
    parser.add_argument("--num", type=int, default=20, help="models of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--inspections", nargs="+", choices=INSPECTIONS, default=list(INSPECTIONS))
    parser.add_argument("--model", choices=MODELS, default="small-cnn")
    parser.add_argument("--cache", type=Path, default=Path("data/victims"))
    parser.add_argument("--fashion-mnist", type=Path, default=Path("data"), metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=RESULTS / "inspections.json")
    arguments = parser.parse_args()
    roots = {"fashion-mnist": arguments.fashion_mnist}
    farm = Farm(arguments.cache, roots, torch.device("cpu"), max_test=1000)
    rows: list[dict[str, Any]] = read(arguments.out) or []
    for seed in range(arguments.num):
        for data in arguments.data:
            for kind in arguments.kinds:
                setting = Setting(
                    data=data, seed=seed, model=arguments.model, **SMALL[data], **KINDS[kind]
                )
                for name in arguments.inspections:
                    identity = {"data": data, "kind": kind, "seed": seed, "model": setting.model}
                    identity |= {"inspection": name, "is": repr(INSPECTIONS[name])}
                    if any(identity.items() <= row.items() for row in rows):
                        continue
                    rows.append(identity | inspect(farm, setting, INSPECTIONS[name]))
                    write(arguments.out, rows)
    say(table(current(rows)))


def current(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that today's settings have measured."""
    return [row for row in rows if row["is"] == repr(INSPECTIONS[row["inspection"]])]


def inspect(farm: Farm, setting: Setting, inspection: Inspection) -> dict[str, Any]:
    """Inspect one model and return its row."""
    victim = farm.victim(setting)
    started = perf_counter()
    found = inspection.inspect(victim.model, victim.spec, seed=setting.seed)
    return {
        "seconds": perf_counter() - started,
        "suspected_class": found.suspected_class,
        "target": setting.target,
        **{score: getattr(found, score) for score in SCORES if hasattr(found, score)},
        **victim.measure(DeployedModel(victim.model, victim.spec.pixels)),
        **provenance(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the markdown table: a line per inspection, network, data, kind of backdoor, score."""
    lines = [
        "| inspection | network | data | backdoor | score | models | median, clean "
        "| median, backdoored | AUC | TPR at 5 % FPR | named | seconds |",
        "|" + "---|" * 12,
    ]
    groups: dict[tuple[str, ...], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        place = tuple(row[name] for name in ("inspection", "model", "data"))
        groups.setdefault(place, {}).setdefault(row["kind"], []).append(row)
    for place, by_kind in groups.items():
        clean = by_kind.get("clean", [])
        for kind in list(KINDS)[1:]:
            bad = by_kind.get(kind, [])
            scores = [score for score in SCORES if clean and bad and score in bad[0]]
            lines += [line((*place, kind, score), score, clean, bad) for score in scores]
    return "\n".join(lines)


def line(
    place: tuple[str, ...], score: str, clean: list[dict[str, Any]], bad: list[dict[str, Any]]
) -> str:
    """Return one line of the table; `place` is what its first cells say."""
    benign, found = [row[score] for row in clean], [row[score] for row in bad]
    auc = fmean((b > a) + 0.5 * (b == a) for b in found for a in benign)
    rate = "–"
    if len(benign) * FALSE_POSITIVE_RATE >= 1:
        bound = calibrated_bound(benign, FALSE_POSITIVE_RATE)
        rate = f"{fmean(value > bound for value in found):.2f}"
    named = fmean(row["suspected_class"] == row["target"] for row in bad)
    seconds = fmean(row["seconds"] for row in [*clean, *bad])
    return (
        f"| {' | '.join(place).replace('_', ' ')} | {len(clean)} + {len(bad)} "
        f"| {median(benign):.2f} | {median(found):.2f} | {auc:.2f} | {rate} | {named:.2f} "
        f"| {seconds:.1f} |"
    )


if __name__ == "__main__":
    main()
