"""Breaks the code in known places, one at a time, and asks whether a test notices: `make mutants`.

Each mutant is a change that leaves the program running and its results wrong: a factor of a loss, a
check that is gone, a protocol rule turned off. A test suite that lets one pass guards that line by
nothing. `python -m tests.mutants WORD ...` takes those whose description holds one of the words.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALL_PASSED, SOME_FAILED = 0, 1
"""Exit statuses of pytest; any other means that it could not run the tests."""


@dataclass(frozen=True)
class Mutant:
    """One way to break the code."""

    what: str
    """What is broken."""
    file: str
    """Where."""
    old: str
    """The text that is replaced; it must stand in the file exactly once."""
    new: str
    """What replaces it."""
    tests: str
    """Files of tests that should notice."""

    def text(self) -> str:
        """Return the broken file.

        Raises:
            LookupError: if the file does not hold the old text exactly once.
        """
        text = (ROOT / self.file).read_text()
        if text.count(self.old) != 1:
            raise LookupError(
                f"{self.what}: {self.file} must hold {self.old!r} once, got {text.count(self.old)}; "
                "write the mutant anew"
            )
        return text.replace(self.old, self.new)


SANITIZERS, ROUNDS, FLOWER = "fl_defense/sanitizers", "fl_defense/rounds", "fl_defense/flower"
SCREENS = "fl_defense/screens"
TESTS = "tests/fl_defense"
MUTANTS = (
    Mutant(
        "screens compare every reply by the first one's update",
        f"{SCREENS}/updates.py",
        "_difference(each[some], old[some]) for each in new",
        "_difference(new[0][some], old[some]) for each in new",
        f"{TESTS}/screens/test_flame.py",
    ),
    Mutant(
        "DeepSight's vote is inverted",
        f"{SCREENS}/deepsight.py",
        "if part >= self.suspicious_share:",
        "if part < self.suspicious_share:",
        f"{TESTS}/screens/test_deepsight.py",
    ),
    Mutant(
        "screens draw where they ask for names",
        f"{SCREENS}/updates.py",
        "    with torch.random.fork_rng(devices=[]):",
        "    if True:",
        f"{TESTS}/screens/test_updates.py",
    ),
    Mutant(
        "FoolsGold forgets",
        f"{SCREENS}/foolsgold.py",
        "total = sums[reply.node] + update if reply.node in sums else update",
        "total = update",
        f"{TESTS}/screens/test_foolsgold.py",
    ),
    Mutant(
        "FilterFL looks at one class",
        f"{SCREENS}/filterfl.py",
        "score = max(sure)",
        "score = sure[0]",
        f"{TESTS}/screens/test_filterfl.py",
    ),
    Mutant(
        "DHBE searches in train mode",
        f"{SANITIZERS}/_placed_patches.py",
        "        with in_eval_mode(student):  # Searching",
        "        if True:  # Searching",
        f"{TESTS}/sanitizers/test_dhbe_adversaries.py",
    ),
    Mutant(
        "DHBE tells ten times its cost",
        f"{SANITIZERS}/dhbe/distillation.py",
        "passed = self.teacher.forward_images + ",
        "passed = 10 * self.teacher.forward_images + 10 * ",
        f"{TESTS}/sanitizers/test_contract.py",
    ),
    Mutant(
        "DeepSanitizer tells ten times its cost",
        f"{SANITIZERS}/deep_sanitizer/head_repair.py",
        "sum(part.forward_images for part in parts)",
        "10 * sum(part.forward_images for part in parts)",
        f"{TESTS}/sanitizers/test_contract.py",
    ),
    Mutant(
        "logits are not measured in their own spread",
        "fl_defense/surrogates/pool.py",
        "float(self.logits.std(1).mean())",
        "1.0",
        f"{TESTS}/sanitizers/test_dhbe.py",
    ),
    Mutant(
        "BCU's temperature is the last from the first epoch on",
        f"{SANITIZERS}/bcu.py",
        "(epoch + 1) / self.epochs",
        "1",
        f"{TESTS}/sanitizers/test_bcu.py",
    ),
    Mutant(
        "BCU draws images without class balance",
        f"{SANITIZERS}/bcu.py",
        "class_balance(in_chunks(teacher, spec.pixels.normalize(images)))",
        "torch.ones(len(images), device=images.device)",
        f"{TESTS}/sanitizers/test_bcu.py",
    ),
    Mutant(
        "DeepCleanse takes the first hole limit always",
        f"{SANITIZERS}/deep_cleanse/method.py",
        "if agreement >= self.min_agreement:",
        "if agreement >= 0:",
        f"{TESTS}/sanitizers/test_deep_cleanse.py",
    ),
    Mutant(
        "DeepCleanse takes the last hole limit always",
        f"{SANITIZERS}/deep_cleanse/method.py",
        "if agreement >= self.min_agreement:",
        "if agreement > 1:",
        f"{TESTS}/sanitizers/test_deep_cleanse.py",
    ),
    Mutant(
        "FreeEagle's dummies never fall below zero",
        "fl_defense/inspections/freeeagle.py",
        "0.0 if floor >= 0 else None",
        "0.0",
        f"{TESTS}/inspections/test_freeeagle.py",
    ),
    Mutant(
        "the trigger search measures on the scenes that it searched",
        "fl_defense/inspections/trigger_search.py",
        "(inputs[i::2], logits[i::2])",
        "(inputs[0 * i :: 2], logits[0 * i :: 2])",
        f"{TESTS}/inspections/test_trigger_search.py",
    ),
    Mutant(
        "scenes have no strokes",
        "fl_defense/surrogates/scenes.py",
        ', ("strokes", _strokes, MAX_STROKES)):',
        ",):",
        f"{TESTS}/surrogates/test_surrogates.py",
    ),
    Mutant(
        "each round's repair draws the same",
        f"{ROUNDS}/repairer.py",
        "1_000_003 + server_round",
        "1_000_003",
        f"{TESTS}/rounds/test_repairer.py",
    ),
    Mutant(
        "the gate's agreement is a plain mean",
        f"{ROUNDS}/gate.py",
        "float(fmean(shares))",
        "(new == old).double().mean().item()",
        f"{TESTS}/rounds/test_gate.py",
    ),
    Mutant(
        "the alarm needs no class twice",
        f"{ROUNDS}/suspicion.py",
        "self.suspected.count(self.suspected[-1]) >= 2",
        "True",
        f"{TESTS}/rounds/test_suspicion.py",
    ),
    Mutant(
        "a client's reason may be as long as it likes",
        f"{FLOWER}/asked.py",
        '" ".join(cleaned.split())[:MAX_REASON]',
        '" ".join(cleaned.split())',
        f"{TESTS}/flower/test_asked.py",
    ),
    Mutant(
        "integer buffers take a mean",
        f"{FLOWER}/batchnorm_policy.py",
        'values.dtype.kind == "f"',
        "True",
        f"{TESTS}/flower/test_batchnorm_policy.py",
    ),
    Mutant(
        "FedAvgM goes on from its own aggregate",
        f"{FLOWER}/inner_strategies.py",
        "inner.current_arrays = arrays",
        "pass",
        f"{TESTS}/flower/test_strategy.py",
    ),
    Mutant(
        "a damaged checkpoint is read",
        "fl_defense/seal.py",
        "if hmac.compare_digest(said.encode(), self.of(*parts).encode()):",
        "if said:",
        f"{TESTS}/flower/test_checkpoint.py",
    ),
    Mutant(
        "attack success counts images of the target class",
        "fl_defense/metrics.py",
        "_share(hit[labels != target]",
        "_share(hit",
        f"{TESTS}/test_metrics.py",
    ),
    Mutant(
        "a source-specific backdoor plants no cover images",
        "simulations/attack/data_poisoning.py",
        "round(self.cover_rate * len(chosen))",
        "0",
        "tests/simulations/attack/test_badnets.py",
    ),
    Mutant(
        "FedProx pulls six times as hard",
        "simulations/federation/trainer.py",
        "self._proximal_mu / 2 *",
        "self._proximal_mu * 3 *",
        "tests/simulations/federation/test_local_training.py",
    ),
    Mutant(
        "crop-flip never mirrors",
        "simulations/training/augmentation.py",
        "generator=draws).to(images.device) < 0.5",
        "generator=draws).to(images.device) < 0",
        "tests/simulations/federation/test_local_training.py",
    ),
    Mutant(
        "FedTrimmedAvg may cut nothing",
        "simulations/aggregators.py",
        "self.beta == 0 or int(self.beta * num_replies) >= 1",
        "True",
        "tests/simulations/test_aggregators.py",
    ),
    Mutant(
        "another name keeps what two parts have each for itself",
        "simulations/scenario/named_parts.py",
        "and home is _home(new, key)",
        "and _home(new, key) is not None",
        "tests/simulations/scenario/test_overrides.py",
    ),
    Mutant(
        "a plan sets a part's fields before its name",
        "simulations/sweep/plan.py",
        "return not is_name,",
        "return is_name,",
        "tests/simulations/sweep/test_plan.py",
    ),
    Mutant(
        "MultiKrum may select more than there are",
        "simulations/aggregators.py",
        "self.num_select is None or 1 <= self.num_select <= num_replies",
        "True",
        "tests/simulations/test_aggregators.py",
    ),
)


def main() -> None:
    """Try mutants, print what became of each, and exit with 1 if one survived."""
    words = sys.argv[1:]
    chosen = [each for each in MUTANTS if not words or any(word in each.what for word in words)]
    for mutant in chosen:
        mutant.text()
    with copied_checkout() as folder:
        if failing(folder, sorted({file for each in chosen for file in each.tests.split()})):
            raise SystemExit("the tests fail on the code as it is; mend that first")
    survivors = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutant, killed in zip(chosen, pool.map(is_killed, chosen), strict=True):
            survivors += not killed
            print("killed  " if killed else "SURVIVED", mutant.what, flush=True)  # noqa: T201
    print(f"{len(chosen) - survivors} of {len(chosen)} killed")  # noqa: T201
    sys.exit(survivors > 0)


def is_killed(mutant: Mutant) -> bool:
    """Return whether a test notices a mutant."""
    with copied_checkout() as folder:
        (folder / mutant.file).write_text(mutant.text())
        return failing(folder, mutant.tests.split())


@contextmanager
def copied_checkout() -> Iterator[Path]:
    """Give a copy of all that the tests read, which is thrown away."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("fl_defense", "simulations", "benchmarks", "configs", "tests"):
            shutil.copytree(
                ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(ROOT / "pyproject.toml", folder)
        yield folder


def failing(folder: Path, tests: list[str]) -> bool:
    """Return whether one of the tests fails on a copy of the code.

    Raises:
        RuntimeError: if they could not be run.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--exitfirst", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (ALL_PASSED, SOME_FAILED):
        raise RuntimeError(f"pytest {' '.join(tests)}:\n{done.stdout}{done.stderr}")
    return done.returncode == SOME_FAILED


if __name__ == "__main__":
    main()
