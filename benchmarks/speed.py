"""Times repairs against training: on how many images could a client train meanwhile?

    python -m benchmarks.speed
    python -m benchmarks.speed --models resnet-18 --shape 3 32 32 --repeats 5

Training and every repair take turns, `--repeats` times, and the median ratio counts: what else the
machine does then slows down both. Networks have random weights: what a repair computes does not
depend on them, but for whole-image changes that a network reacts to, which add 10 to 15 %. Results
go into results/speed.json, in place of those of the same network, device and threads.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import nn
from torch.nn import functional

from benchmarks import RESULTS
from benchmarks.defenses import SANITIZERS, changed
from benchmarks.rows import provenance, read, write
from benchmarks.victims import MODELS, say
from fl_defense.inspections import TriggerSearch
from fl_defense.model.precision import Precision
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import NoEffectWarning, apply_sanitizer

NUM_CLASSES = 10
TRAINED = 2_000
"""Images of one timed stretch of training."""
BATCH_SIZE = 32
"""Of training, as in the shipped scenarios."""
REPAIRS = ("dhbe", "deep-sanitizer", "deep-sanitizer-quick")
"""Defenses with a choice of precision."""
Work = Callable[[nn.Module, ModelSpec], object]


def train(model: nn.Module, spec: ModelSpec) -> None:
    """Take a client's steps over `TRAINED` images, as `federation/trainer.py` does."""
    model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    device = next(model.parameters()).device
    inputs = torch.randn(BATCH_SIZE, *spec.input_shape, device=device)
    inputs = inputs.to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH_SIZE, device=device) % spec.num_classes
    for _ in range(TRAINED // BATCH_SIZE):
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def works() -> dict[tuple[str, str], Work]:
    """Return what is timed, by its name and its precision."""
    timed: dict[tuple[str, str], Work] = {}
    precision: Precision
    for precision in get_args(Precision):
        for name in REPAIRS:
            asked = changed(SANITIZERS[name], precision=precision)
            timed[name, precision] = partial(apply_sanitizer, asked)
    timed["trigger-search", "float32"] = TriggerSearch().inspect
    return timed


def measure(model: str, shape: tuple[int, int, int], device: str, repeats: int) -> dict[str, Any]:
    """Return for each work its median seconds, and its time in images of training."""
    build = partial(MODELS[model].build, shape, NUM_CLASSES)
    spec = ModelSpec(build=build, input_shape=shape, num_classes=NUM_CLASSES)
    on_gpu = device.startswith("cuda")
    per_image: list[float] = []
    timed = works()
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in timed}
    seconds(train, spec, device)  # what is done once, at first use
    for repeat in range(repeats):
        torch.manual_seed(repeat)
        per_image.append(seconds(train, spec, device) / TRAINED)
        for key, work in timed.items():
            taken[key].append(seconds(work, spec, device))
            say(f"{model}, {' '.join(key)}: {taken[key][-1]:.1f} s")
    rows = []
    for (name, precision), times in taken.items():
        ratios = [one / image for one, image in zip(times, per_image, strict=True)]
        row = {"what": name, "precision": precision, "seconds": median(times)}
        rows.append(row | {"images": median(ratios), "least": min(ratios), "most": max(ratios)})
    named = torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"
    return {
        "model": model,
        "shape": list(shape),
        "device": named,
        "repeats": repeats,
        "training_ms_per_image": 1000 * median(per_image),
        "rows": rows,
        **provenance(),
    }


def seconds(work: Work, spec: ModelSpec, device: str) -> float:
    """Return how long a work takes on a fresh network, which has been used once before."""
    model = spec.build().to(device).eval()
    with torch.no_grad():
        model(torch.zeros(1, *spec.input_shape, device=device))
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    started = time.perf_counter()
    work(model, spec)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def table(results: list[dict[str, Any]]) -> str:
    """Return the markdown table."""
    lines = [
        "| network | images | device | what | precision | seconds "
        "| as long as training on, images |",
        "|" + "---|" * 7,
    ]
    for result in results:
        shape = "x".join(map(str, result["shape"]))
        for row in result["rows"]:
            spread = f"{row['images']:,.0f} [{row['least']:,.0f}, {row['most']:,.0f}]"
            lines.append(
                f"| {result['model']} | {shape} | {result['device']} | {row['what']} "
                f"| {row['precision']} | {row['seconds']:.1f} | {spread} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure, write JSON after each network, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS,
                        default=["small-cnn", "resnet-10-w16"])  # fmt: skip
    parser.add_argument("--shape", nargs=3, type=int, default=(1, 28, 28), metavar="N",
                        help="channels, height and width of an image")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed.json")
    arguments = parser.parse_args()
    # Networks without a backdoor have nothing to unlearn; the time is the same.
    warnings.simplefilter("ignore", NoEffectWarning)
    channels, height, width = arguments.shape
    results: list[dict[str, Any]] = read(arguments.out) or []
    for model in arguments.models:
        result = measure(model, (channels, height, width), arguments.device, arguments.repeats)
        same = ("model", "shape", "device")
        place = [result[name] for name in same]
        results = [old for old in results if [old[name] for name in same] != place] + [result]
        write(arguments.out, results)
    say(table(results))


if __name__ == "__main__":
    main()
