"""Measures a card: training, clients side by side, repairs, screening, DHBE as in its paper.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --device cpu --small

Takes less than eight minutes. Needs torch, numpy and scikit-learn. Pictures lie in the folder that
`--images` names, one folder per class in train/ and test/; without them pixels are drawn at random,
and the file says so. Each section runs in a process of its own, and has a limit of time. One that
fails is recorded with its error, and the next one runs. What is measured is written at once, into
results/gpu.json; a small run into the folder `results` of the checkout.
"""

import argparse
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks import RESULTS
from benchmarks.device_bench import FULL, SMALL, Bench, Row, one_line
from benchmarks.on_device import SECTIONS
from benchmarks.rows import ROOT, provenance, write
from fl_defense.sanitizers import NoEffectWarning

ROUND_IMAGES = 50_000
"""Images that the clients of a round train on: CIFAR-10, once."""
TEXT = {
    "images_per_second": "{:,.0f} images/s",
    "seconds": "{:.2f} s",
    "full_hours": "{:.2f} h in full",
    "share": "{:.0%} of a round",
    "compile_seconds": "{:.0f} s to compile",
    "peak_mebibytes": "{:,.0f} MiB",
}
"""How the figures of a row are told."""


def main(words: list[str] | None = None) -> None:
    """Measure, write JSON after each row, print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="tiny networks: does it run?")
    parser.add_argument("--images", type=Path, default=ROOT / "data/cifar10")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(words)
    small = arguments.small
    try:
        device = torch.device(arguments.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {arguments.device} cannot be used: {one_line(error)}")
    images = arguments.images if arguments.images.is_dir() else None
    bench = Bench(device=device, scale=SMALL if small else FULL, images=images)
    out = arguments.out or (ROOT / "results/gpu-small.json" if small else RESULTS / "gpu.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    measured: dict[str, Any] = machine(device) | {"small": small, "sections": {}}
    for name in arguments.sections:
        say(f"\n{name}: {SECTIONS[name][0].__doc__}")
        section: dict[str, Any] = {"rows": [], "error": None}
        measured["sections"][name] = section
        run_section(name, bench, section, lambda: write(out, measured))
        if section["error"] is not None:
            say(f"  failed: {section['error']}")
    rows = shares(measured["sections"])
    measured["sections"]["shares"] = {"rows": rows, "error": None}
    write(out, measured)
    say(f"\nshares: of a round in which clients train on {ROUND_IMAGES:,} images")
    for row in rows:
        say(told(row))
    say(f"\nwritten to {out}")


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on beside the code."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device)
        if on_gpu
        else f"cpu, {torch.get_num_threads()} threads",
        "memory_mebibytes": torch.cuda.get_device_properties(device).total_memory / 2**20
        if on_gpu
        else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        # cuDNN rounds float32 to TF32 in convolutions unless it is told not to.
        "tf32_convolutions": torch.backends.cudnn.allow_tf32 if on_gpu else None,
        **provenance(),
    }


def run_section(name: str, bench: Bench, section: dict[str, Any], keep: Any) -> None:
    """Run a section in a process; put its rows and its error into `section`, and keep each.

    Args:
        name: of the section.
        bench: where and how large.
        section: has "rows" and "error".
        keep: called after each change.
    """
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(name, bench, writer))
    limit = SECTIONS[name][1]
    started = time.monotonic()
    process.start()
    writer.close()
    try:
        while True:
            left = limit - (time.monotonic() - started)
            if left <= 0 or not reader.poll(left):
                section["error"] = f"TimeoutError: ended after {limit:.0f} s"
                break
            row = reader.recv()
            if row is None:
                break
            if "error" in row:
                section["error"] = row["error"]
                break
            section["rows"].append(row)
            keep()
            say(told(row))
    except EOFError:
        process.join(5)
        section["error"] = f"the process ended with exit code {process.exitcode}"
    process.join(5 if section["error"] is None else 0)
    process.kill()
    section["wall_seconds"] = time.monotonic() - started
    keep()


def _measure(name: str, bench: Bench, writer: Connection) -> None:
    """Send a section's rows, then None, or its error."""
    if bench.scale != FULL and bench.device.type == "cpu":
        torch.set_num_threads(1)
    # Networks without a backdoor have nothing to unlearn; the time is the same.
    warnings.simplefilter("ignore", NoEffectWarning)
    try:
        for row in SECTIONS[name][0](bench):
            writer.send(row)
        writer.send(None)
    except Exception as error:  # noqa: BLE001 - whatever a section raises, the others go on
        writer.send({"error": one_line(error)})


def shares(sections: Mapping[str, Any]) -> list[Row]:
    """Return what share of a round each repair and screening takes, of training and itself.

    The clients of the round train one after the other on this device, as fast as the first batch
    size goes in any layout and in the same precision.
    """
    trained = sections.get("training", {"rows": []})["rows"]
    if not trained:
        return []
    first = trained[0]["batch_size"]
    rows: list[Row] = []
    for name in ("repair", "screening"):
        for row in sections.get(name, {"rows": []})["rows"]:
            precision = row.get("precision", "float32")
            speeds = [
                each["images_per_second"]
                for each in trained
                if each["batch_size"] == first and each["precision"] == precision
            ]
            if not speeds:
                continue
            training = ROUND_IMAGES / max(speeds)
            kept = {key: row[key] for key in row if key not in ("peak_mebibytes",)}
            share = row["seconds"] / (row["seconds"] + training)
            rows.append(kept | {"share": share, "training_seconds": training})
    return rows


def told(row: Row) -> str:
    """Return a row as one line: what it belongs to, and its figures."""
    names = [f"{key} {value}" for key, value in row.items() if not isinstance(value, float)]
    figures = [text.format(row[key]) for key, text in TEXT.items() if key in row]
    return "  " + ", ".join(names) + ": " + ", ".join(figures)


def say(line: str) -> None:
    """Print at once: a benchmark's progress is read while it runs."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
