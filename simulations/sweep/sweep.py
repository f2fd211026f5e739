"""Runs a plan: a process per run, at most so many at a time; what is finished is not run again."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from fl_defense.atomic_write import replace_file
from fl_defense.progress import counted
from simulations.measurement.folder_lock import sole_writer
from simulations.measurement.reading import read_json
from simulations.scenario import ConfigError
from simulations.sweep.plan import PlannedRun

LINES_OF_ERROR = 5
"""What is kept of the end of a failed run's output."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What became of one run of a plan."""

    run: PlannedRun
    folder: Path
    seconds: float
    """Of this call; 0 for a run that was finished before."""
    error: str | None = None
    """The end of its output if it failed."""

    def to_json(self) -> str:
        """Return the line of runs.jsonl."""
        line: dict[str, Any] = {"run": self.run.key, "settings": dict(self.run.chosen)}
        if self.error is not None:
            return json.dumps(line | {"status": "failed", "error": self.error})
        summary = read_json(self.folder / "summary.json")
        return json.dumps(line | {"status": "finished", "summary": summary})


@dataclass(kw_only=True)
class Sweep:
    """The runs of a plan in one folder.

    Args:
        runs: the plan's.
        out: folder: a folder for each run under its key, and runs.jsonl with a line for each.
        cores: processes at a time, each with one thread.
        tell: called with each run as it ends, and how many are left.
    """

    runs: Sequence[PlannedRun]
    out: Path
    cores: int
    tell: Callable[[Finished, int], None] = lambda finished, left: None
    _done: dict[str, Finished] = field(default_factory=dict)
    _processes: set["subprocess.Popen[str]"] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise ConfigError([f"--cores: must be at least 1, got {self.cores}"])

    @property
    def waiting(self) -> list[PlannedRun]:
        """The runs that are not finished yet."""
        return [run for run in self.runs if not self._is_finished(run)]

    def go(self) -> list[Finished]:
        """Run what is not finished; return the runs that failed.

        Raises:
            ConfigError: if the folder cannot be written, or another process does.
            KeyboardInterrupt: on Ctrl-C, after the running processes were ended.
        """
        with sole_writer(self.out, make=True):
            return self._go()

    def _go(self) -> list[Finished]:
        waiting = self.waiting
        for run in self.runs:
            if run not in waiting:
                self._done[run.key] = Finished(run=run, folder=self._folder(run), seconds=0)
        self._write()
        with ThreadPoolExecutor(self.cores) as pool:
            futures = [pool.submit(self._run, run) for run in waiting]
            try:
                for left, future in enumerate(as_completed(futures), start=1):
                    finished = future.result()
                    self._done[finished.run.key] = finished
                    self._write()
                    self.tell(finished, len(waiting) - left)
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                self._end_processes()
                raise
        return [each for each in self._done.values() if each.error is not None]

    def _is_finished(self, run: PlannedRun) -> bool:
        return (self._folder(run) / "summary.json").exists()

    def _folder(self, run: PlannedRun) -> Path:
        return self.out / run.key

    def _write(self) -> None:
        """Write a line for each run that has ended, in the plan's order."""
        lines = [self._done[run.key].to_json() for run in self.runs if run.key in self._done]
        text = "".join(f"{line}\n" for line in lines)
        replace_file(self.out / "runs.jsonl", text.encode())

    def _run(self, run: PlannedRun) -> Finished:
        """Run or resume one run in a process of its own, so that a crash costs this one alone."""
        folder, started = self._folder(run), time.monotonic()
        if (folder / "rounds.jsonl").exists():
            words = ["--resume", str(folder)]
        else:
            given = self.out / f"{run.key}.yaml"
            replace_file(given, run.scenario.to_yaml().encode())
            (folder / "scenario.yaml").unlink(missing_ok=True)
            words = [str(given), "--out", str(folder)]
        code, output = self._call([sys.executable, "-m", "fl_defense", "run", "--quiet", *words])
        error = None
        if code != 0:
            said = output.strip().splitlines()[-LINES_OF_ERROR:]
            error = "\n".join(said) or f"ended with {code} and said nothing"
        (self.out / f"{run.key}.yaml").unlink(missing_ok=True)
        return Finished(run=run, folder=folder, seconds=time.monotonic() - started, error=error)

    def _call(self, command: list[str]) -> tuple[int, str]:
        environment = os.environ | dict.fromkeys(THREADS, "1") | {"OMP_WAIT_POLICY": "PASSIVE"}
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        with self._lock:
            self._processes.add(process)
        output, _ = process.communicate()
        with self._lock:
            self._processes.discard(process)
        return process.returncode, output

    def _end_processes(self) -> None:
        with self._lock:
            for process in self._processes:
                process.terminate()


def check_runs(runs: Sequence[PlannedRun], check: Callable[[Any], object]) -> None:
    """Try every run's scenario before the first one starts.

    Args:
        runs: the plan's.
        check: raises ConfigError for a scenario that could not run.

    Raises:
        ConfigError: with each fault and the run that has it.
    """
    faults = []
    for run in counted("trying scenarios", runs):
        try:
            check(run.scenario)
        except ConfigError as error:
            faults += [f"{run.label}: {fault}" for fault in error.faults]
    if faults:
        raise ConfigError(faults)
