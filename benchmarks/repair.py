"""Repairs centrally backdoored models with every sanitizer: what is left, and what it cost.

    python -m benchmarks.repair --small
    python -m benchmarks.repair --data fashion-mnist --triggers patch clean --seeds 0 1 2 \
        --sanitizers none dhbe

`--full` trains on all images, which leaves none for "bcu on own data": that row is skipped. Another
`--max-train` brings it back.

CIFAR-10 and GTSRB are given by path (a folder with train/ and test/, or its .tar.gz archive):

    python -m benchmarks.repair --small --root cifar10=cifar10.tar.gz --root gtsrb=gtsrb32.tar.gz

Every measured row goes into a JSON file at once; rows that are in it already are not measured again
(`--again` does). The markdown table of all rows is printed at the end. Rates are on test images
that no sanitizer has seen; ASR and robust accuracy leave out images of the target class.
"""

import argparse
import os
import platform
import resource
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks import RESULTS
from benchmarks.controls import OracleFeatures, OtherData, OwnData
from benchmarks.defenses import LEVER_GROUPS, LEVERS, SANITIZERS, changed
from benchmarks.rows import provenance, read, write
from benchmarks.victims import MODELS, TRIGGERS, Farm, NoImageLeftError, Setting, Victim, say
from fl_defense.metrics import defense_effectiveness
from fl_defense.model.deployed import DeployedModel
from fl_defense.sanitizers import Sanitizer, apply_sanitizer
from simulations.metrics import columns

SMALL: dict[str, Any] = {
    "data": ["fashion-mnist", "cifar10", "gtsrb"],
    "triggers": ["patch", "blended", "sinusoid", "warped", "clean"],
    "sanitizers": ["none", "dhbe"],
    "seeds": [0],
    "model": "resnet-10-w16",
}
FULL = SMALL | {
    "sanitizers": list(SANITIZERS),
    "seeds": [0, 1, 2],
    "model": "resnet-18",
    "max_train": None,
    "max_test": None,
    "epochs": 20,
}


TRAINING = ("max_train", "epochs", "poison_rate", "target")
"""Fields of a setting that a row tells beside its victim's names."""
UNKNOWN = "?"
"""Stands for what an old row does not tell."""


def main() -> None:
    """Run the grid, write JSON, print the table."""
    arguments = parse()
    rows: list[dict[str, Any]] = read(arguments.out) or []
    known = SANITIZERS | LEVERS
    names = [name for asked in arguments.sanitizers for name in LEVER_GROUPS.get(asked, [asked])]
    farm = Farm(
        arguments.cache,
        dict(arguments.root),
        torch.device(arguments.device),
        max_test=arguments.max_test,
    )
    for data in arguments.data:
        for seed in arguments.seeds:
            for trigger in arguments.triggers:
                setting = Setting(
                    data=data,
                    trigger=trigger,
                    seed=seed,
                    model=arguments.model,
                    max_train=arguments.max_train,
                    epochs=arguments.epochs,
                )
                for name in names:
                    at, repair_seed = arguments.inspect_at, arguments.repair_seed
                    label = name if at is None else f"{name}, cut at {at}"
                    label += "" if repair_seed is None else f", repair seed {repair_seed}"
                    identity = {"victim": setting.key, "sanitizer": label, "is": repr(known[name])}
                    done = [row for row in rows if identity.items() <= row.items()]
                    if done and not arguments.again:
                        # Of a row from before these were stored, the victim's key vouches for them.
                        done[0].update(training(setting))
                        continue
                    try:
                        row = identity | repair(farm, setting, known[name], at, repair_seed)
                    except NoImageLeftError as error:
                        say(f"skipped {name}: {error}")
                        continue
                    rows = [old for old in rows if not _same_place(old, row)] + [row]
                    write(arguments.out, rows)
                    say(line([row]))
    write(arguments.out, rows)
    say(table(rows))


def repair(
    farm: Farm,
    setting: Setting,
    sanitizer: Sanitizer,
    inspect_at: str | None = None,
    repair_seed: int | None = None,
) -> dict[str, Any]:
    """Repair one victim, cut at `inspect_at` or where it is by default, and return its row.

    The repair draws from `repair_seed`, or from the victim's seed.

    Raises:
        NoImageLeftError: if the sanitizer needs images that the victim was not trained on.
    """
    victim = farm.victim(setting)
    victim = replace(victim, spec=replace(victim.spec, inspect_at=inspect_at))
    if getattr(sanitizer, "surrogate", None) == OwnData():
        sanitizer = changed(sanitizer, surrogate=OwnData(images=farm.unlabelled(setting)))
    if getattr(sanitizer, "surrogate", None) == OtherData():
        sanitizer = changed(sanitizer, surrogate=OtherData(images=farm.other(setting)))
    before = victim.measure(DeployedModel(victim.model, victim.spec.pixels))
    on_gpu = farm.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    if isinstance(sanitizer, OracleFeatures):
        sanitizer = changed(sanitizer, images=victim.data.train_images)
    seed = setting.seed if repair_seed is None else repair_seed
    sanitized = apply_sanitizer(sanitizer, victim.model, victim.spec, seed=seed)
    after = victim.measure(sanitized.deployed(victim.spec).to(farm.device))
    return {
        "data": setting.data,
        "model": setting.model,
        "trigger": setting.trigger,
        "seed": setting.seed,
        **training(setting),
        "max_test": farm.max_test,
        "before": before,
        "after": after,
        "floor": floor(farm, setting),
        "der": defense_effectiveness(
            accuracy_before=before["accuracy"],
            accuracy_after=after["accuracy"],
            success_before=before["attack_success_rate"],
            success_after=after["attack_success_rate"],
        ),
        "seconds": sanitized.seconds,
        "forward_images": sanitized.details.get("forward_images"),
        "peak_mib": peak_mib(on_gpu),
        "device": torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()}",
        "torch": torch.__version__,
        "python": platform.python_version(),
        **provenance(),
    }


def training(setting: Setting) -> dict[str, Any]:
    """Return what a row tells of its victim's training."""
    return {name: getattr(setting, name) for name in TRAINING}


def floor(farm: Farm, setting: Setting) -> float | None:
    """Return how often a clean model of the same setting falls for the trigger."""
    if setting.trigger == "clean":
        return None
    clean: Victim = farm.victim(
        Setting(**{**vars(setting), "trigger": "clean"}),
    )
    deployed = DeployedModel(clean.model, clean.spec.pixels)
    return clean.measure(deployed, setting.trigger)["attack_success_rate"]


def peak_mib(on_gpu: bool) -> float:
    """Return the most memory used: of the call on a GPU, of the process so far on a CPU."""
    if on_gpu:
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def table(rows: list[dict[str, Any]]) -> str:
    """Return the markdown table: means over the seeds of rows that differ in nothing else."""
    head = [
        "| data | model | images x epochs | trigger | sanitizer | seeds | "
        + " | ".join(metric.title for metric in columns().values())
        + " | floor | DER | seconds | forwards | peak MiB |",
        "|" + "---|" * (11 + len(columns())),
    ]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        place = [row[name] for name in ("data", "model", "trigger", "sanitizer", "is")]
        place += [row.get(name, UNKNOWN) for name in (*TRAINING, "max_test")]
        groups.setdefault(tuple(place), []).append(row)
    return "\n".join([*head, *(line(group) for group in groups.values())])


def line(group: list[dict[str, Any]]) -> str:
    """Return one line: mean over the rows of a group, range in brackets if there are several."""
    first = group[0]
    cells = [first["data"], first["model"], _images_and_epochs(first)]
    cells += [first["trigger"], first["sanitizer"]]
    cells.append(", ".join(str(row["seed"]) for row in group))
    for rate in columns():
        before = fmean(row["before"][rate] for row in group)
        cells.append(f"{before:.3f} → {_spread([row['after'][rate] for row in group])}")
    floors = [row["floor"] for row in group if row["floor"] is not None]
    cells.append(f"{fmean(floors):.3f}" if floors else "–")
    cells.append("–" if first["trigger"] == "clean" else _spread([row["der"] for row in group]))
    cells.append(f"{fmean(row['seconds'] for row in group):.0f}")
    forwards = first["forward_images"]
    cells.append("–" if forwards is None else f"{forwards / 1000:.0f} k")
    cells.append(f"{max(row['peak_mib'] for row in group):.0f}")
    return "| " + " | ".join(cells) + " |"


def number(value: float | str | None) -> str:
    """Write a number; None means all."""
    if value is None:
        return "all"
    return value if isinstance(value, str) else f"{value:,}"


def values(rows: list[dict[str, Any]], name: str, between: str = " or ") -> str:
    """Return the different values that rows have in a field, in order of appearance."""
    found = dict.fromkeys(row.get(name, UNKNOWN) for row in rows)
    return between.join(number(value) for value in found)


def _images_and_epochs(row: dict[str, Any]) -> str:
    return f"{number(row.get('max_train', UNKNOWN))} x {row.get('epochs', UNKNOWN)}"


def _spread(values: list[float]) -> str:
    spread = f" [{min(values):.3f}, {max(values):.3f}]" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}"


def _same_place(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return (old["victim"], old["sanitizer"]) == (new["victim"], new["sanitizer"])


def parse() -> argparse.Namespace:
    """Return the arguments; a grid's name sets all that is not given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    grids = parser.add_mutually_exclusive_group()
    grids.add_argument("--small", action="store_true", help="for 2 CPU cores; the default")
    grids.add_argument("--full", action="store_true", help="for a GPU: resnet-18, all images")
    parser.add_argument("--data", nargs="+", choices=["digits", *SMALL["data"]])
    parser.add_argument("--triggers", nargs="+", choices=[*TRIGGERS, "clean"])
    parser.add_argument("--sanitizers", nargs="+", choices=[*SANITIZERS, *LEVERS, *LEVER_GROUPS])
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--max-train", type=int, default=10_000)
    parser.add_argument("--max-test", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--root", action="append", type=root_of, default=[], metavar="DATA=PATH")
    parser.add_argument("--cache", type=Path, default=Path("data/victims"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "repair.json")
    parser.add_argument("--inspect-at", metavar="NAME", help="where DeepSanitizer cuts")
    parser.add_argument("--repair-seed", type=int, help="of the repair; the victim's if not given")
    parser.add_argument("--again", action="store_true", help="measure known rows again")
    full = "--full" in sys.argv
    parser.set_defaults(**(FULL if full else SMALL))
    return parser.parse_args()


def root_of(text: str) -> tuple[str, Path]:
    """Return the data set and the folder or archive of `DATA=PATH`."""
    name, _, path = text.partition("=")
    if not path:
        raise argparse.ArgumentTypeError(f"must be DATA=PATH, got {text!r}")
    return name, Path(path)


if __name__ == "__main__":
    main()
