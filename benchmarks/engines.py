"""Times the rounds of a scenario on each engine: whose clients cost least, and what start-up costs.

    python -m benchmarks.engines
    python -m benchmarks.engines fashion_mnist_badnets --set data.max-train=20000 --repeats 3

The engines take turns, `--repeats` times, and the median of the ratios to `in-process` counts. The
seconds of a round go from its first message to its last reply. CPU seconds are those of all
processes; believe them on a busy machine: there Linux gives Ray, in its own session, a larger part
of the cores. The first round holds the start-up. Results go into results/engines.json. Linux only.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks import RESULTS
from benchmarks.rows import provenance, write
from benchmarks.victims import say
from simulations.federation.run import run_scenario
from simulations.measurement.measured_round import MeasuredRound
from simulations.scenario.load import find_scenario, load_scenario

ENGINES = ("in-process", "processes", "ray")
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, write JSON, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="?", default="quickstart")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--out", type=Path, default=RESULTS / "engines.json")
    arguments = parser.parse_args()
    turns = [
        {
            engine: measure(arguments.scenario, engine, arguments.rounds, arguments.settings)
            for engine in arguments.engines
        }
        for _ in range(arguments.repeats)
    ]
    rows = [
        {"scenario": arguments.scenario, "settings": arguments.settings, "engine": engine}
        | summed([turn[engine] for turn in turns], [turn["in-process"] for turn in turns])
        | provenance()
        for engine in arguments.engines
    ]
    write(arguments.out, rows)
    say(table(rows))


def measure(name: str, engine: str, rounds: int, settings: Sequence[str]) -> dict[str, float]:
    """Run a scenario without a defense; return the seconds of a round and of the first one."""
    own = [f"rounds={rounds}", f"evaluate-every={rounds}", "screens=[]", "defense.name=none"]
    scenario = load_scenario(find_scenario(name), [f"engine.name={engine}", *own, *settings])
    seconds: list[float] = []
    cpu: list[float] = []

    def tell(measured: MeasuredRound) -> None:
        seconds.append(measured.record.train_seconds)
        cpu.append(cpu_seconds())

    with tempfile.TemporaryDirectory() as folder:
        run_scenario(scenario, Path(folder) / "run", tell)
    each = [after - before for before, after in pairwise(cpu)]
    return {
        "first": seconds[1],
        "seconds": median(seconds[2:]),
        # The last round is evaluated, the others cost the clients and the aggregation alone.
        "cpu_seconds": median(each[1:-1]),
    }


def summed(mine: Sequence[dict[str, float]], alone: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return medians over the turns, and of the ratios to one process."""
    found = {key: median(turn[key] for turn in mine) for key in mine[0]}
    for key in ("seconds", "cpu_seconds"):
        pairs = zip(mine, alone, strict=True)
        found[f"{key}_ratio"] = median(one[key] / other[key] for one, other in pairs)
    return found


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all that descend from it."""
    times, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        process = int(path.parent.name)
        parents[process] = int(fields[1])
        times[process] = (int(fields[11]) + int(fields[12])) / TICKS

    def is_ours(process: int) -> bool:
        while process > 1:
            if process == os.getpid():
                return True
            process = parents.get(process, 0)
        return False

    return sum(time for process, time in times.items() if is_ours(process))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the markdown table."""
    lines = [
        "| scenario | engine | first round, s | later rounds, s | times in-process "
        "| CPU s | times in-process |",
        "|" + "---|" * 7,
    ]
    for row in rows:
        lines.append(
            f"| {row['scenario']} | {row['engine']} | {row['first']:.1f} | {row['seconds']:.2f} "
            f"| {row['seconds_ratio']:.2f} | {row['cpu_seconds']:.2f} "
            f"| {row['cpu_seconds_ratio']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
