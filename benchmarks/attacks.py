"""Every attack against every way of defending, and the worst case over the attacks.

    python -m benchmarks.attacks --partitions iid --seeds 0
    python -m benchmarks.attacks --attacks dba a3fl --variants "no defense" MultiKrum --table

Each federation is a row of JSON, written as soon as it is measured into benchmarks/results; a row
that is there is not run again, so that an interrupted table goes on where it stopped. The last
lines of the printed table are each defense's worst case over the attacks.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks import RESULTS
from benchmarks.loop import SCREEN
from benchmarks.rows import provenance
from simulations.federation.run import run_scenario
from simulations.scenario.load import load_scenario

BASE = Path("configs/scenarios/fashion_mnist_badnets.yaml")
"""The federation that is attacked; its own attack and defense are replaced."""
SMALL = ["data.max-train=20000", "data.max-test=2000", "rounds=12", "engine.name=in-process"]
"""What makes the federation bearable for two cores."""
BARS = ["backdoor.trigger.name=bars"]
FEW = ["attack.malicious=0.2", "attack.first-round=4"]
"""Attackers, and when they begin: from a model that has learned something."""
MANY = ["attack.malicious=0.4", "attack.first-round=4"]
GENTLE = ["attack.epochs=3", "attack.learning-rate=0.01"]
"""How those train who replace the model: longer than honest clients, and more gently."""
ATTACKS: dict[str, list[str]] = {
    "badnets, sent three times": ["attack.name=badnets", *FEW, "attack.boost=3"],
    "dba": ["attack={name: dba}", *MANY, *BARS, "attack.boost=2"],
    "fcba": ["attack={name: fcba}", *MANY, *BARS, "attack.boost=2"],
    "model replacement, once": [
        "attack={name: model-replacement}",
        "attack.malicious=0.1",
        "attack.attack-rounds=[8]",
        *GENTLE,
    ],
    "dba, one shot each": [
        "attack={name: dba-single-shot}",
        "attack.malicious=0.4",
        "attack.attackers-per-round=1",
        "attack.attack-rounds=[6, 7, 8, 9]",
        *GENTLE,
        *BARS,
    ],
    "pgd": ["attack={name: pgd}", *MANY],
    "pgd, slow": ["attack={name: pgd}", *MANY, "attack.norm-share=0.3"],
    "neurotoxin": ["attack={name: neurotoxin}", *FEW, "attack.boost=3"],
    "layer poisoning": ["attack={name: layer-poisoning}", *MANY],
    "a3fl": ["attack={name: a3fl}", *FEW, "attack.boost=2"],
    "iba": ["attack={name: iba}", *FEW, "attack.boost=2", "backdoor.trigger.name=generated"],
    "clean label": ["attack={name: clean-label}", *MANY, "backdoor.trigger.name=sinusoid"],
    "input-dependent": [
        "attack.name=badnets",
        *FEW,
        "attack.boost=3",
        "backdoor.trigger.name=dynamic",
    ],
    "scene-aware": ["attack={name: scene-aware}", *FEW, "attack.boost=3"],
    "framing": ["attack={name: framing}", *FEW, "attack.boost=3"],
    "in turn": ["attack.name=badnets", *MANY, "attack.boost=3", "attack.attackers-per-round=1"],
    "majority": ["attack.name=badnets", "attack.malicious=0.6", "attack.first-round=4"],
    "sign flip": ["attack={name: sign-flip}", *MANY],
    "alie": ["attack={name: alie}", *MANY],
}
"""Settings of each attack: over the base's where it is the same attack, else over defaults."""
AT_LAST = "repair.schedule={first-round: 10}"
"""Repairs change no later round if clients are sent the aggregate: those that count are enough."""
VARIANTS: dict[str, list[str]] = {
    "no defense": ["defense.name=none"],
    "MultiKrum": [
        "defense.name=none",
        "aggregator.name=multikrum",
        "aggregator.num-malicious=3",
    ],
    "DHBE at release": ["defense.name=dhbe", "repair.broadcast=aggregate", AT_LAST],
    "closed loop": ["defense.name=dhbe", *SCREEN],
}
"""Ways of defending, by their names in the table."""
PARTITIONS: dict[str, list[str]] = {
    "iid": ["partition.name=iid"],
    "alpha 0.5": ["partition.name=dirichlet", "partition.alpha=0.5"],
}
Row = dict[str, Any]
KEY = ("base", "partition", "attack", "variant", "seed")
RATES = ("accuracy", "attack_success_rate", "robust_accuracy")


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for name, table in (("attacks", ATTACKS), ("variants", VARIANTS), ("partitions", PARTITIONS)):
        parser.add_argument(f"--{name}", nargs="+", choices=table, default=list(table))
    parser.add_argument("--set", nargs="+", default=SMALL, help="overrides of the base")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--out", default="attacks.jsonl", help="file in benchmarks/results")
    arguments = parser.parse_args()
    out = RESULTS / arguments.out
    rows = read_rows(out)
    done = {key_of(row) for row in rows}
    asked = [
        (arguments.base.stem, partition, attack, variant, seed)
        for partition in arguments.partitions
        for attack in arguments.attacks
        for seed in arguments.seeds
        for variant in arguments.variants
    ]
    for key in asked:
        if arguments.table or key in done:
            continue
        row = dict(zip(KEY, key, strict=True)) | provenance()
        row |= measure(arguments.base, arguments.set, *key[1:])
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        rows.append(row)
    print(table_of(row for row in rows if key_of(row) in set(asked)))  # noqa: T201


def measure(
    base: Path, settings: Sequence[str], partition: str, attack: str, variant: str, seed: int
) -> Row:
    """Run one federation and return what its row holds beside its key."""
    overrides = [
        *settings, *PARTITIONS[partition], *ATTACKS[attack], *VARIANTS[variant], f"seed={seed}",
    ]  # fmt: skip
    scenario = load_scenario(base, overrides)
    with tempfile.TemporaryDirectory() as folder:
        summary = run_scenario(scenario, Path(folder) / "run").summary
    kept = ("last_three_rounds", "durability", "screens", "num_left_out", "seconds", "device")
    return {"overrides": overrides} | {name: summary[name] for name in kept}


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, none if it is not there."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def key_of(row: Row) -> tuple[Any, ...]:
    """Return what tells a row from others."""
    return tuple(row[name] for name in KEY)


def table_of(rows: Iterable[Row]) -> str:
    """Return the markdown table: means over the seeds, and the worst attack of each defense."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["partition"], row["attack"], row["variant"]), []).append(row)
    head = (
        "| partition | attack | defense | accuracy | ASR | robust accuracy | attackers left out "
        "| honest left out | seeds |"
    )
    lines = [head, "|" + "---|" * 9]
    worst: dict[tuple[str, str], tuple[float, str, str]] = {}
    for (partition, attack, variant), some in groups.items():
        rates = {name: fmean(released(row, name) for row in some) for name in RATES}
        shares = [share_left_out(some, kind) for kind in ("malicious", "honest")]
        cells = " | ".join([*(f"{rates[name]:.3f}" for name in RATES), *shares, f"{len(some)} |"])
        lines.append(f"| {partition} | {attack} | {variant} | {cells}")
        entry = (rates["attack_success_rate"], attack, cells)
        worst[partition, variant] = max(worst.get((partition, variant), entry), entry)
    for (partition, variant), (_, attack, cells) in worst.items():
        lines.append(f"| {partition} | **worst: {attack}** | {variant} | {cells}")
    return "\n".join(lines)


def released(row: Row, rate: str) -> float:
    """Return a rate of the released model over the last three rounds."""
    return float(row["last_three_rounds"]["released"][rate])


def share_left_out(rows: Iterable[Row], kind: str) -> str:
    """Return how many replies of malicious or honest clients screens left out, of how many."""
    counts = [count for row in rows for count in row["screens"].values()]
    gone = sum(count[f"left_out_{kind}"] for count in counts)
    return f"{gone} of {gone + sum(count[f'kept_{kind}'] for count in counts)}" if counts else "–"


if __name__ == "__main__":
    main()
