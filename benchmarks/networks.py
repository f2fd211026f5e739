"""Repairs networks and images of many kinds, and asks whether the verdict says what is true.

    python -m benchmarks.networks --small --root gtsrb=gtsrb32.tar.gz --root cifar10=cifar10.tar.gz
    python -m benchmarks.networks --rows "drawn triggers" --seeds 0 1 2 3 4 5 6 7 8 9

One line per kind of network, data and trigger; each seed is a victim of its own, repaired by each
defense, judged as a federation's aggregate is: by the do-no-harm gate and by the verdict. A row is
kept (JSON) as soon as it is measured and not measured again (`--again` does). A cell of the table
is accuracy / ASR / robust accuracy, with the verdict. Rates are on test images
that no defense has seen. A row is held if ASR <= 0.10 at a fall of accuracy <= 0.03 (clean: 0.02),
or if the caller is told: `not repaired`, `not verified`, or a refusal. What a clean network loses
no verdict makes good.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks import RESULTS
from benchmarks.repair import root_of
from benchmarks.rows import provenance, read, write
from benchmarks.victims import Farm, Setting, say
from fl_defense.inspections import TriggerSearch
from fl_defense.model.deployed import DeployedModel
from fl_defense.rounds.gate import DoNoHarmGate
from fl_defense.rounds.verdict import judge
from fl_defense.sanitizers import DHBE, ContractError, DeepSanitizer, Sanitizer, apply_sanitizer

DEFENSES: dict[str, Sanitizer] = {"dhbe": DHBE(), "deep-sanitizer": DeepSanitizer()}
ADAM = {"optimizer": "adam", "learning_rate": 2e-3}
KINDS: dict[str, dict[str, Any]] = {
    "drawn triggers": {"data": "fashion-mnist", "trigger": "drawn", "max_train": 5000},
    "BatchNorm": {"data": "gtsrb-10"},
    "GroupNorm": {"data": "gtsrb-10", "model": "resnet-10-group"},
    "Flower's template": {"data": "gtsrb-10", "model": "template-net", "epochs": 10},
    "Flower's template, CIFAR-10": {"data": "cifar10", "model": "template-net", "epochs": 10},
    "Flower's template, clean": {
        "data": "gtsrb-10",
        "model": "template-net",
        "epochs": 10,
        "trigger": "clean",
    },
    "ViT, LayerNorm": {"data": "gtsrb-10", "model": "small-vit", "epochs": 10, **ADAM},
    "MLP": {"data": "fashion-mnist", "model": "mlp", "epochs": 10},
    "MobileNetV3, 96": {"data": "gtsrb-10-96", "model": "mobilenet-v3", **ADAM},
    "ResNet-18, 64": {"data": "gtsrb-10-64", "model": "torchvision-resnet-18"},
    "ResNet-18, GroupNorm, 64": {"data": "gtsrb-10-64", "model": "torchvision-resnet-18-group"},
    "VGG-11": {"data": "gtsrb-10", "model": "vgg-11"},
    "ConvNeXt": {"data": "gtsrb-10", "model": "small-convnext", "epochs": 10, **ADAM},
    "gray, 1x64x64": {"data": "gtsrb-10-gray-64"},
    "3 classes": {"data": "gtsrb-3"},
    "100 classes": {"data": "gtsrb-100", "max_train": 10_000},
}
"""Each row's victims; unless said, ResNet-10 w16 with a 5x5 checkerboard in 10 % of the images."""
SMALL = {"max_train": 6000}
"""Images that suffice for a victim, on two cores."""
MOST_ASR, MOST_LOST, MOST_LOST_OF_CLEAN = 0.10, 0.03, 0.02
"""What issue and docs ask of a repair."""


def main() -> None:
    """Run the rows, write JSON, print the table."""
    arguments = parse()
    rows: list[dict[str, Any]] = read(arguments.out) or []
    roots = dict(arguments.root)
    farm = Farm(arguments.cache, roots, torch.device(arguments.device), arguments.max_test)
    for seed in arguments.seeds:
        for kind in arguments.rows:
            setting = setting_of(kind, seed, small=arguments.small)
            for name in arguments.defenses:
                identity = {"kind": kind, "victim": setting.key, "defense": name}
                identity["is"] = repr(DEFENSES[name])
                if any(identity.items() <= row.items() for row in rows) and not arguments.again:
                    continue
                row = identity | {"label": arguments.label} | provenance()
                row |= measure(farm, setting, DEFENSES[name])
                rows.append(row)
                write(arguments.out, rows)
                say(f"{kind}, seed {seed}, {name}: {cell([row])}, {row['seconds']:.0f} s")
    say(table(rows))


def setting_of(kind: str, seed: int, *, small: bool) -> Setting:
    """Return a row's victim."""
    fields = {"trigger": "patch-5x5", "max_train": None} | (SMALL if small else {}) | KINDS[kind]
    return Setting(seed=seed, **fields)


def measure(farm: Farm, setting: Setting, sanitizer: Sanitizer) -> dict[str, Any]:
    """Repair one victim and return its row; of a refusal, its reason."""
    victim = farm.victim(setting)
    suspect = DeployedModel(victim.model, victim.spec.pixels)
    row: dict[str, Any] = {"seed": setting.seed, "before": victim.measure(suspect)}
    started = perf_counter()
    try:
        sanitized = apply_sanitizer(sanitizer, victim.model, victim.spec, seed=setting.seed)
    except (ValueError, ContractError) as error:
        return row | {"refused": str(error), "seconds": perf_counter() - started}
    row["seconds"] = sanitized.seconds
    deployed = sanitized.deployed(victim.spec)
    gate = DoNoHarmGate(victim.spec, victim.model, seed=setting.seed, device=farm.device)
    agreement = gate.agreement(suspect, deployed)
    row |= {"after": victim.measure(deployed), "agreement": agreement}
    row["refused"] = gate.refusal(agreement)
    started = perf_counter()
    verdict = judge(
        TriggerSearch(), victim.spec, victim.model, sanitized.model, seed=setting.seed + 1
    )
    row |= {"verdict": verdict.word, "verify_seconds": perf_counter() - started}
    return row | verdict.details | {"patch_gain": sanitized.details.get("patch_gain")}


def is_held(row: Mapping[str, Any]) -> bool:
    """Tell whether a repair does what is asked of it, or the caller is told that it does not."""
    if row.get("refused") is not None:
        return True
    lost = row["before"]["accuracy"] - row["after"]["accuracy"]
    if row["kind"].endswith("clean"):
        return bool(lost <= MOST_LOST_OF_CLEAN)
    if row["verdict"].startswith("not "):
        return True
    return bool(row["after"]["attack_success_rate"] <= MOST_ASR and lost <= MOST_LOST)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the markdown table: a line per kind, a cell per defense, means over the seeds."""
    defenses = [name for name in DEFENSES if any(row["defense"] == name for row in rows)]
    lines = [
        f"| network, images | seeds | before | {' | '.join(defenses)} | held |",
        "|" + "---|" * (4 + len(defenses)),
    ]
    for kind in KINDS:
        here = [row for row in rows if row["kind"] == kind]
        if not here:
            continue
        by_defense = [[row for row in here if row["defense"] == name] for name in defenses]
        seeds = sorted({row["seed"] for row in here})
        held = sum(map(is_held, here))
        cells = [kind, ", ".join(map(str, seeds)), rates([row["before"] for row in here])]
        cells += [cell(group) for group in by_defense]
        lines.append(f"| {' | '.join(cells)} | {held} of {len(here)} |")
    return "\n".join(lines)


def cell(group: list[dict[str, Any]]) -> str:
    """Return what became of one kind's victims under one defense."""
    repaired = [row for row in group if "after" in row]
    words = [row["verdict"] for row in repaired if row["refused"] is None]
    refused = len(group) - len(words)
    said = [f"{words.count(word)} {word}" for word in dict.fromkeys(words)]
    said += [f"{refused} refused"] if refused else []
    verdicts = f" ({', '.join(said)})" if said else ""
    return (rates([row["after"] for row in repaired]) if repaired else "–") + verdicts


def rates(measured: list[dict[str, float]]) -> str:
    """Return accuracy, ASR and robust accuracy: means."""
    return " / ".join(
        f"{fmean(each[name] for each in measured):.3f}"
        for name in ("accuracy", "attack_success_rate", "robust_accuracy")
    )


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--defenses", nargs="+", choices=DEFENSES, default=list(DEFENSES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--small", action="store_true", help="6,000 images; for 2 CPU cores")
    parser.add_argument("--max-test", type=int, default=2_000)
    parser.add_argument("--root", action="append", type=root_of, default=[], metavar="DATA=PATH")
    parser.add_argument("--cache", type=Path, default=Path("data/victims"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "networks.json")
    parser.add_argument("--label", default="", help="kept in the row, for before and after")
    parser.add_argument("--again", action="store_true", help="measure known rows again")
    return parser.parse_args()


if __name__ == "__main__":
    main()
