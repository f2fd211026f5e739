"""Fuzzes all targets for some minutes: `make fuzz MINUTES=30`; prints inputs and what was found.

Exits with 1 if anything was found. Each fault is printed with the smallest input that shows it.
"""

import argparse
import gc
import logging
import sys
import time
import warnings
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from simulations.engines.local_grid import set_task_identity
from tests.fuzz_targets import TARGETS, Target

ROUND = 300
"""Inputs of a target before the next one has its turn."""


def tried(target: Target, number: int) -> tuple[int, Exception | None]:
    """Try a round of inputs; return how many there were, and the first fault."""
    count = 0

    def holds(given_input: Any) -> None:
        nonlocal count
        count += 1
        target.holds(given_input)

    many = settings(
        max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink], print_blob=False,
    )  # fmt: skip
    try:
        many(seed(number)(given(target.inputs)(holds)))()
    except Exception as error:  # noqa: BLE001 - any is a finding
        return count, error
    return count, None


def main() -> int:
    """Fuzz until the minutes are over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--only", choices=TARGETS, nargs="*", default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    gc.collect = lambda generation=2: 0  # type: ignore[assignment]  # Flower's, after each reply
    set_task_identity()
    counts = dict.fromkeys(arguments.only, 0)
    found: dict[str, Exception] = {}
    end, number = time.monotonic() + 60 * arguments.minutes, arguments.seed
    print(f"seed {number}")
    while time.monotonic() < end and len(found) < len(counts):
        for name in counts:
            if name not in found:
                count, fault = tried(TARGETS[name], number)
                counts[name] += count
                if fault is not None:
                    found[name] = fault
                    notes = "\n".join(getattr(fault, "__notes__", []))
                    print(f"{name}: {type(fault).__name__}: {fault}\n{notes}", flush=True)
        number += 1
    for name, count in counts.items():
        print(f"{name}: {count} inputs, {'1 fault' if name in found else 'nothing found'}")
    print(f"{sum(counts.values())} inputs in {arguments.minutes:g} minutes, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
