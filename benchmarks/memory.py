"""Measures the resident memory of the server and its clients over many rounds in one process.

    python -m benchmarks.memory --rounds 100

Runs the repaired digits federation with a short repair and a checkpoint in every round, reads the
resident memory after each round, and writes memory.json beside this script. What is compared is the
mean over the first ten rounds after the warm-up and over the last ten. Linux only.
"""

import argparse
import gc
import os
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks import RESULTS
from benchmarks.rows import provenance, write
from simulations.federation.run import run_scenario
from simulations.measurement.measured_round import MeasuredRound
from simulations.scenario.load import load_scenario

ROOT = Path(__file__).parents[1]
WARM_UP = 10
"""Rounds in which caches fill and allocators settle."""
SETTINGS = ["engine.name=in-process", "training.epochs=1", "defense.iterations=5",
            "defense.num-scenes=256", "repair.min-agreement=0",
            "repair.schedule.first-round=1"]  # fmt: skip


def main() -> None:
    """Run, write JSON, print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    result = measure(arguments.rounds)
    out = RESULTS / "memory.json"
    write(out, result | provenance())
    print(  # noqa: T201
        f"{arguments.rounds} rounds: {result['first']:.0f} MiB after the warm-up, "
        f"{result['last']:.0f} MiB at the end, growth {result['growth_per_round']:.3f} MiB a round"
    )


def measure(num_rounds: int) -> dict[str, Any]:
    """Return the resident memory in MiB after each round, and what became of it."""
    scenario = load_scenario(
        ROOT / "configs/scenarios/digits_repair_only.yaml", [*SETTINGS, f"rounds={num_rounds}"]
    )
    resident: list[float] = []

    def tell(measured: MeasuredRound) -> None:
        if measured.round > 0:
            gc.collect()
            resident.append(resident_mebibytes())

    with tempfile.TemporaryDirectory() as folder:
        run_scenario(scenario, Path(folder) / "run", tell)
    settled = resident[WARM_UP:]
    tenth = max(1, min(10, len(settled) // 2))
    first, last = fmean(settled[:tenth]), fmean(settled[-tenth:])
    return {
        "rounds": num_rounds,
        "settings": SETTINGS,
        "first": first,
        "last": last,
        "growth_per_round": (last - first) / max(1, len(settled) - tenth),
        "resident_mebibytes": [round(value, 1) for value in resident],
    }


def resident_mebibytes() -> float:
    """Return this process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
