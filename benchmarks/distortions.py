"""What noise, warps and waves do to clean and in backdoored networks: what the bars rest on.

    python -m benchmarks.distortions --root cifar10=cifar10.tar.gz --root gtsrb=gtsrb32.tar.gz

Searches the networks that `repair.py` (ResNet-10) and `inspection.py` (small) train, from the same
caches. Each network's row goes into a JSON file at once; networks that are in it already are not
searched again. The markdown table is printed at the end.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks import RESULTS
from benchmarks.inspections import SMALL
from benchmarks.repair import root_of
from benchmarks.rows import provenance, read, write
from benchmarks.victims import Farm, Setting, say
from fl_defense.model.batches import in_chunks
from fl_defense.model.training import frozen_copy, seeded
from fl_defense.search.distortions import DistortionSearch, DistortionSettings, Measurement
from fl_defense.search.probe import NetworkProbe
from fl_defense.surrogates.familiarity import draw_familiar
from fl_defense.surrogates.pool import ScenePool
from fl_defense.surrogates.scenes import Scenes

RESNET: dict[str, Any] = {"model": "resnet-10-w16", "max_train": 10_000, "epochs": 5}
TRIGGERS = ("clean", "patch", "patch-8x8", "blended", "sinusoid", "warped")
FAMILIES = ("noise", "warp", "wave")
NUM_SCENES = 512
"""Scenes that a network is searched on, the most familiar of four times as many."""


def main() -> None:
    """Search every network, write JSON, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=["fashion-mnist", "cifar10", "gtsrb"])
    parser.add_argument("--num", type=int, default=20, help="small networks of each kind")
    parser.add_argument("--root", action="append", type=root_of, default=[], metavar="DATA=PATH")
    parser.add_argument("--cache", type=Path, default=Path("data/victims"))
    parser.add_argument("--small-cache", type=Path, default=Path("data/victims"))
    parser.add_argument("--out", type=Path, default=RESULTS / "distortions.json")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = read(arguments.out) or []
    large, small = (
        Farm(cache, dict(arguments.root), torch.device("cpu"), max_test=1000)
        for cache in (arguments.cache, arguments.small_cache)
    )
    settings = [
        (large, Setting(data=data, trigger=trigger, seed=0, **RESNET))
        for data in arguments.data
        for trigger in TRIGGERS
    ]
    settings += [
        (small, Setting(data=data, trigger=trigger, seed=seed, model="small-cnn", **training))
        for data, training in SMALL.items()
        for trigger in ("clean", "patch")
        for seed in range(arguments.num)
    ]
    for farm, setting in settings:
        identity = {name: getattr(setting, name) for name in ("data", "model", "trigger", "seed")}
        if not any(identity.items() <= row.items() for row in rows):
            rows.append(identity | search(farm, setting) | provenance())
            write(arguments.out, rows)
    say(table(rows))


def search(farm: Farm, setting: Setting) -> dict[str, Any]:
    """Return by how much each family lifts a class of one network, and which class."""
    victim = farm.victim(setting)
    model, spec = frozen_copy(victim.model), victim.spec
    device = next(model.parameters()).device
    with seeded(setting.seed, device):
        inputs = draw_familiar(Scenes(), model, spec, NUM_SCENES, 4)
        pool = ScenePool(inputs, in_chunks(model, inputs))
        families = DistortionSearch(DistortionSettings(), spec.input_shape, device)
        probe = NetworkProbe(model, pool, spec.pixels)
        found = families.find(Measurement(probe, pool.spread()))
    gains = {each.family.name: each.gain for each in found}
    classes = {each.family.name: each.suspected_class for each in found}
    return {"gains": gains, "classes": classes, "target": setting.target}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the markdown table: the largest gain of each family among networks of a kind."""
    lines = ["| data | network | backdoor | networks | " + " | ".join(FAMILIES) + " |"]
    lines.append("|" + "---|" * (4 + len(FAMILIES)))
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["model"], row["trigger"]), []).append(row)
    for place, group in groups.items():
        largest = [max(row["gains"].get(name, 0.0) for row in group) for name in FAMILIES]
        cells = [*place, str(len(group)), *(f"{value:.2f}" for value in largest)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
