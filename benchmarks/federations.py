"""Regenerates the federations' results table: each scenario defended, undefended and unattacked.

    python -m benchmarks.federations configs/scenarios/digits_repair_only.yaml --seeds 0 1 2

The variants that decision 0005 rests on:

    python -m benchmarks.federations configs/scenarios/digits_repair_only.yaml \
        --seeds 0 --out release.json --variants "defended" "repaired model broadcast" "warm start"

Runs every variant with every seed on the in-process engine and puts each run into one JSON file
beside this script, in the place of an earlier run of the same variant and seed. Then prints a
markdown table of all that the file holds: means over the last three rounds, over the seeds, with
their range.
"""

import argparse
import os
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks import RESULTS
from benchmarks.rows import provenance, read, write
from simulations.federation.run import run_scenario
from simulations.metrics import columns
from simulations.scenario.load import load_scenario

DEEP_SANITIZER = ["defense.name=deep-sanitizer"]
QUICK = [*DEEP_SANITIZER, "defense.preset=quick"]
FIRST_OF_TEN = ["rounds=10", "repair.schedule.first-round=1"]
VARIANTS = {
    "defended": [],
    "undefended": ["defense.name=none"],
    "no attack": ["attack.name=none", "defense.name=none"],
    "no attack, dhbe": ["attack.name=none"],
    "no attack, deep-sanitizer": ["attack.name=none", *DEEP_SANITIZER],
    "a quarter poisoned": ["attack.poison-rate=0.25"],
    "half poisoned": ["attack.poison-rate=0.5"],
    "half poisoned, updates sent twice": ["attack.poison-rate=0.5", "attack.boost=2"],
    "repaired model broadcast": ["repair.broadcast=repaired"],
    "warm start": ["defense.warm-start=true"],
    "75 iterations": ["defense.iterations=75"],
    "deep-sanitizer": DEEP_SANITIZER,
    "deep-sanitizer, quick": QUICK,
    "no attack, deep-sanitizer, quick": ["attack.name=none", *QUICK],
    "deep-sanitizer, dummies not moved": [*DEEP_SANITIZER, "defense.balancing-steps=0"],
    "deep-sanitizer, warm start": [*DEEP_SANITIZER, "defense.warm-start=true"],
    "dhbe, repaired from the first of ten rounds": FIRST_OF_TEN,
    "deep-sanitizer, repaired from the first of ten rounds": [*DEEP_SANITIZER, *FIRST_OF_TEN],
    "deep-sanitizer, quick, repaired from the first of ten rounds": [*QUICK, *FIRST_OF_TEN],
    "repaired model broadcast, every third round": [
        "repair.broadcast=repaired",
        "repair.schedule.every=3",
    ],
    "last round only": ["repair.schedule.every=null"],
    "on suspicion": ["repair.schedule.on-suspicion=3", "repair.schedule.last=false"],
    "no attack, on suspicion": [
        "attack.name=none",
        "repair.schedule.on-suspicion=3",
        "repair.schedule.last=false",
    ],
    "dhbe in bfloat16": ["defense.name=dhbe", "defense.precision=bfloat16"],
    "deep-sanitizer in bfloat16": [*DEEP_SANITIZER, "defense.precision=bfloat16"],
    "FedMedian": ["aggregator.name=fedmedian"],
    "MultiKrum": ["aggregator.name=multikrum", "aggregator.num-malicious=2"],
}
Results = dict[str, list[dict[str, Any]]]
"""Runs by variant, each a summary with its rounds, in the order of the seeds."""


def main() -> None:
    """Run the grid, write JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=["defended", "undefended", "no attack"]
    )
    parser.add_argument("--engine", choices=["in-process", "ray"], default="in-process")
    parser.add_argument("--out", help="name of the JSON file in benchmarks/results")
    arguments = parser.parse_args()
    out = RESULTS / (arguments.out or f"{arguments.scenario.stem}.json")
    results: Results = read(out) or {}
    for variant in arguments.variants:
        for seed in arguments.seeds:
            overrides = [*VARIANTS[variant], f"seed={seed}", f"engine.name={arguments.engine}"]
            scenario = load_scenario(arguments.scenario, overrides)
            with tempfile.TemporaryDirectory() as folder:
                result = run_scenario(scenario, Path(folder) / "run")
            rounds = [
                {
                    "round": measured.round,
                    "accepted": measured.record.accepted,
                    "agreement": measured.record.agreement,
                    "rates": measured.rates,
                    "anomaly": measured.record.details.get("anomaly"),
                }
                for measured in result.records
            ]
            put(results, variant, result.summary | {"by_round": rounds} | provenance())
            write(out, results)
            print(row(f"{variant}, seed {seed}", [result.summary]), flush=True)  # noqa: T201
    print(table(results))  # noqa: T201


def put(results: Results, variant: str, run: dict[str, Any]) -> None:
    """Put a run among the variant's, by its seed, in the place of an earlier one."""
    others = [old for old in results.get(variant, []) if old["seed"] != run["seed"]]
    results[variant] = sorted([*others, run], key=lambda each: each["seed"])


def table(results: Results) -> str:
    """Return the markdown table of the collected summaries."""
    head = [
        "| run | "
        + " | ".join(metric.title for metric in columns().values())
        + " | training | repair, share of a round |",
        "|" + "---|" * (3 + len(columns())),
    ]
    rows = []
    for variant, runs in results.items():
        rows.append(row(variant, runs))
        means = [run["last_three_rounds"] for run in runs]
        repaired = any(
            "aggregate" in rates and rates["aggregate"] != rates["released"] for rates in means
        )
        if "undefended" not in results and repaired:
            # Where clients go on from the aggregate, it is what an undefended run would have.
            rows.append(row("– before the repair", runs, "aggregate"))
    return "\n".join([*head, *rows])


def row(name: str, runs: list[dict[str, Any]], stage: str = "released") -> str:
    """Return one row: mean over the seeds of the rates at a stage, range in brackets."""
    cells = []
    for metric in columns():
        values = [run["last_three_rounds"][stage][metric] for run in runs]
        spread = f" [{min(values):.3f}, {max(values):.3f}]" if len(values) > 1 else ""
        cells.append(f"{fmean(values):.3f}{spread}")
    training = sum(run["seconds"]["training"] for run in runs) / sum(run["rounds"] for run in runs)
    cells.append(f"{training:.1f} s")
    repairs = sum(
        run["num_repaired"] + run["num_refused"] + run.get("num_failed_repairs", 0) for run in runs
    )
    each = sum(run["seconds"]["repair"] for run in runs) / max(1, repairs)
    nothing = each < 0.1 or stage != "released"
    cells.append("–" if nothing else f"{each:.1f} s, {each / (each + training):.0%}")
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
