"""Measures whether later rounds cost more than earlier ones: time, memory, checkpoint.

    python -m benchmarks.growth --rounds 200

Runs the digits federation with memories, histories and screens in one process. The means over ten
rounds after the warm-up are compared with those over the last ten. Prints one line for each; writes
growth.json beside the other results. Linux only.
"""

import argparse
import gc
import os
import tempfile
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks import RESULTS
from benchmarks.memory import SETTINGS, resident_mebibytes
from benchmarks.rows import provenance, write
from simulations.federation.run import run_scenario
from simulations.measurement.measured_round import MeasuredRound
from simulations.scenario.load import load_scenario

ROOT = Path(__file__).parents[1]
WARM_UP = 20
"""Rounds in which memories fill."""
WITH_MEMORIES = [
    *SETTINGS,
    "screens=[{name: norm-clipping}, {name: attribution, num-scenes: 64, num-judges: 32}]",
    "repair.schedule.on-suspicion=history",
    "repair.verify=null",
    "repair.broadcast=repaired",
    "repair.reference-age=3",
]


def main() -> None:
    """Run, write JSON, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    result = measure(arguments.rounds)
    write(RESULTS / "growth.json", result | provenance())
    for name, each in result["ratios"].items():
        print(f"{name}: last ten rounds {each:.3f} times the first ten")  # noqa: T201


def measure(num_rounds: int) -> dict[str, Any]:
    """Return what each round took, and the ratio of the last ten to the first ten."""
    scenario = load_scenario(
        ROOT / "configs/scenarios/digits_repair_only.yaml",
        [*WITH_MEMORIES, f"rounds={num_rounds}"],
    )
    told: dict[str, list[float]] = {"seconds": [], "resident_mebibytes": [], "checkpoint_bytes": []}
    with tempfile.TemporaryDirectory() as folder:
        out, before = Path(folder) / "run", perf_counter()

        def tell(measured: MeasuredRound) -> None:
            nonlocal before
            if measured.round > 1:
                gc.collect()
                told["seconds"].append(perf_counter() - before)
                told["resident_mebibytes"].append(resident_mebibytes())
                told["checkpoint_bytes"].append((out / "checkpoint").stat().st_size)
            before = perf_counter()

        run_scenario(scenario, out, tell)
    warm_up = min(WARM_UP, num_rounds // 4)
    settled = {name: each[warm_up:] for name, each in told.items()}
    ten = max(1, min(10, (num_rounds - warm_up) // 2 - 1))
    return {
        "rounds": num_rounds,
        "settings": WITH_MEMORIES,
        "ratios": {n: fmean(each[-ten:]) / fmean(each[:ten]) for n, each in settled.items()},
        "by_round": {name: [round(value, 3) for value in each] for name, each in told.items()},
    }


if __name__ == "__main__":
    main()
