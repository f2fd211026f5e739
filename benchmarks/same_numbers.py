"""Do two checkouts of the project compute the same numbers, to the bit?

    python -m benchmarks.same_numbers ../other-checkout

Runs the same commands in both, one after the other: a federation that is repaired, repairs of one
small network by each defense, and the calibration of a run without attackers. Seconds and memory
are left out; every other number of the other checkout must come out here again. New numbers may
come beside them, and keys may have other names. Ends with exit code 1 if a number is missing. Both
checkouts need this one's packages. A refactoring is compared with the commit before it, which
`git worktree add` checks out.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
TIMED = ("seconds", "peak_mib", "inspect_seconds")
"""Endings of keys whose numbers differ from run to run."""
SCENARIO = "configs/scenarios/digits_repair_only.yaml"
QUICK = ["--engine", "in-process", "--quiet"]
CLEAN = ["--set", "attack.name=none", "--set", "rounds=6", "--set", "defense.name=none"]
ALARM = ["--set", "repair.schedule={first-round: 1, on-suspicion: history}"]
DEFENSES = ["none", "dhbe", "deep-sanitizer", "bcu", "deep-cleanse", "clp"]


def main() -> None:
    """Run both, print what differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="the checkout to compare with")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        theirs = numbers_of(arguments.other.resolve(), Path(folder) / "theirs")
        ours = numbers_of(HERE, Path(folder) / "ours")
    differs = False
    for name, numbers in theirs.items():
        missing = numbers - ours[name]
        differs = differs or bool(missing)
        result = (
            f"{missing.total()} of {numbers.total()} are missing here" if missing else "the same"
        )
        say(f"{name}: {result}" + "".join(f"\n    {number}" for number in sorted(missing)[:10]))
    sys.exit(int(differs))


def numbers_of(checkout: Path, out: Path) -> dict[str, Counter[str]]:
    """Run everything in a checkout; return the numbers of each part, as they print."""
    out.mkdir()
    scenario = checkout / SCENARIO
    run(checkout, "-m", "fl_defense", "run", scenario, *QUICK, "--out", out / "attacked")
    run(checkout, "-m", "fl_defense", "run", scenario, *QUICK, *CLEAN, *ALARM,
        "--out", out / "clean")  # fmt: skip
    calibrated = run(checkout, "-m", "fl_defense", "calibrate", out / "clean",
                     "--false-positive-rate", "0.2")  # fmt: skip
    run(checkout, "-m", "benchmarks.repair", "--data", "digits", "--triggers", "patch", "--model",
        "small-cnn", "--sanitizers", *DEFENSES, "--cache", out / "victims",
        "--out", out / "repair.json")  # fmt: skip
    weights = (out / "attacked" / "model.safetensors").read_bytes()
    return {
        "federation, rounds": Counter(records_in(out / "attacked" / "rounds.jsonl")),
        "federation, weights": Counter([hashlib.sha256(weights).hexdigest()]),
        "run without attackers, rounds": Counter(records_in(out / "clean" / "rounds.jsonl")),
        "calibrate": Counter(calibrated.split()),
        "repairs": Counter(numbers_in(json.loads((out / "repair.json").read_text()))),
    }


def run(checkout: Path, *words: object) -> str:
    """Run Python in a checkout with the checkout's own packages; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    say(f"{checkout.name}: {' '.join(map(str, words))}")
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{checkout}: {' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def records_in(path: Path) -> Iterator[str]:
    """Yield the numbers of a file of records, each with the round that it belongs to."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        for value in numbers_in(json.loads(line)):
            yield f"round {number}: {value}"


def numbers_in(value: Any) -> Iterator[str]:
    """Yield every floating-point number in nested containers, those of timed keys left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not str(key).endswith(TIMED):
                yield from numbers_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers_in(inner)
    elif isinstance(value, float):
        yield repr(value)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
