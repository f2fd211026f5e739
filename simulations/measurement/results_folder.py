"""The results folder: written as the rounds happen, read again after a crash."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save

from fl_defense.atomic_write import replace_file
from fl_defense.flower.checkpoint import Checkpoint, CheckpointFile
from fl_defense.flower.packing import CheckpointError
from fl_defense.rounds.journal import Entry
from fl_defense.rounds.records import read_lines
from fl_defense.screens.apply import ScreenReport
from simulations.measurement.confusion import Confusion
from simulations.measurement.measured_round import MeasuredRound
from simulations.measurement.plots import plot_curves
from simulations.measurement.seals import journal_of, seal_from_environment, sealed_summary
from simulations.scenario import ConfigError
from simulations.scenario.load import load_scenario
from simulations.scenario.scenario import Scenario

CONFUSION = "confusion.json"
"""Answers by class in the last round."""
PICTURES = "found"
"""Folder of the patterns that screens found."""


def read_rounds(folder: Path) -> list[MeasuredRound]:
    """Return the finished rounds of a run, be it finished or not.

    Raises:
        ConfigError: if the folder holds none that can be read.
    """
    try:
        lines = read_lines(folder / "rounds.jsonl", MeasuredRound.from_keys)
    except (OSError, ValueError) as error:
        raise ConfigError(
            [f"{folder}: holds no readable run ({' '.join(str(error).split())})"]
        ) from error
    return [measured for _, measured in lines]


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """Where a run was interrupted."""

    checkpoint: Checkpoint | None
    """Of the last finished round; None before the end of the first."""
    records: list[MeasuredRound]
    """The finished rounds."""


class ResultsFolder:
    """scenario.yaml, rounds.jsonl, summary.json, model.safetensors, curves.png.

    Until the run is finished there is `checkpoint` too; after a defense that purifies images,
    `deployed.pt2`, which `simulations.federation.server.serve` writes.

    Args:
        path: the folder, which holds a run.
        scenario: that run's.

    Raises:
        ConfigError: if the key for the seals cannot be had.
    """

    def __init__(self, path: Path, scenario: Scenario) -> None:
        self.path = path
        self._metrics = scenario.metrics
        self.seal = seal_from_environment()
        self.journal = journal_of(path, self.seal)
        self.checkpoint_file = CheckpointFile(
            path=path / "checkpoint",
            belongs_to=scenario.to_yaml(),
            seal=self.seal,
            journal=self.journal,
        )

    @staticmethod
    def check_free(path: Path) -> None:
        """Refuse a folder that holds a run.

        Raises:
            ConfigError: if it does.
        """
        if (path / "rounds.jsonl").exists() or (path / "scenario.yaml").exists():
            raise ConfigError(
                [f"{path}: already holds a run; name another folder with --out, or use --resume"]
            )

    @classmethod
    def begin(cls, path: Path, scenario: Scenario) -> Self:
        """Make the folder of a new run.

        Raises:
            ConfigError: if the folder already holds a run, or cannot be made.
        """
        seal_from_environment()  # nothing is written if the key cannot be had
        cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            replace_file(path / "scenario.yaml", scenario.to_yaml().encode())
        except OSError as error:
            raise ConfigError(
                [f"{path}: cannot be written ({error.strerror}); name another folder with --out"]
            ) from error
        return cls(path, scenario)

    @classmethod
    def reopen(cls, path: Path) -> tuple[Self, Scenario, "Interrupted"]:
        """Return the folder of an interrupted run, its scenario, and where it was interrupted.

        Raises:
            ConfigError: if there is no interrupted run, or its checkpoint must not be used.
        """
        if not (path / "scenario.yaml").exists():
            raise ConfigError([f"{path}: holds no run; name the folder of an interrupted one"])
        if (path / "summary.json").exists():
            raise ConfigError([f"{path}: the run is finished; there is nothing to resume"])
        scenario = load_scenario(path / "scenario.yaml")
        folder = cls(path, scenario)
        checkpoint = None
        if folder.checkpoint_file.path.exists():
            try:
                checkpoint = folder.checkpoint_file.read()
            except CheckpointError as error:
                raise ConfigError([str(error)]) from error
        records = folder._rewind(checkpoint)
        return folder, scenario, Interrupted(checkpoint=checkpoint, records=records)

    def _rewind(self, checkpoint: Checkpoint | None) -> list[MeasuredRound]:
        """Drop what was written after the checkpoint, and return the records before.

        A crash may come between a round's line and its checkpoint, or cut the line off.

        Raises:
            ConfigError: if the lines are not those that the checkpoint vouches for.
        """
        path, num_finished = self.journal.path, checkpoint.carried.round if checkpoint else 0
        if not path.exists() and num_finished == 0:
            return []
        try:
            entries = self.journal.read(MeasuredRound.from_keys)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError([f"{path}: cannot be read ({reason}); start the run anew"]) from error
        last = entries[-1].value.round if entries else 0
        if not num_finished <= last <= num_finished + 1:
            raise ConfigError(
                [
                    f"{path}: ends with round {last}, but the checkpoint is of round "
                    f"{num_finished}; bring back the missing file or start the run anew"
                ]
            )
        kept = [each for each in entries if checkpoint and each.value.round <= num_finished]
        if checkpoint is not None and (doubt := _doubt(kept, checkpoint)) is not None:
            raise ConfigError(
                [f"{path}: {doubt}; bring back the file as it was written, or start the run anew"]
            )
        self.journal.keep(kept)
        return [each.value for each in kept]

    def append(self, record: MeasuredRound) -> None:
        """Write one round, to the disk."""
        self.journal.append(record)

    def save_pictures(self, server_round: int, screens: Sequence[ScreenReport]) -> None:
        """Write what screens found in a round, a PNG for each pattern."""
        from matplotlib.image import imsave

        for screen in screens:
            for name, picture in screen.pictures.items():
                words = "-".join(re.findall(r"\w+", f"{screen.screen} {name}"))
                (self.path / PICTURES).mkdir(exist_ok=True)
                # Other numbers of channels than one and three have no colors of their own.
                shown = picture if len(picture) == 3 else picture.mean(0).expand(3, -1, -1)
                path = self.path / PICTURES / f"round_{server_round:04d}_{words}.png"
                content = io.BytesIO()
                told = {"Title": name}
                imsave(content, shown.clamp(0, 1).permute(1, 2, 0).numpy(), format="png",
                       metadata=told)  # fmt: skip
                replace_file(path, content.getvalue())

    def save_confusion(self, confusion: Confusion) -> None:
        """Write the answers by class, before and after the repair of the last round."""
        replace_file(self.path / CONFUSION, confusion.to_json().encode())

    def finish(
        self, summary: dict[str, Any], records: list[MeasuredRound], arrays: dict[str, torch.Tensor]
    ) -> None:
        """Write what is known at the end; the summary comes last and says that all is there."""
        contiguous = {name: value.contiguous() for name, value in arrays.items()}
        weights = save(contiguous)
        replace_file(self.path / "model.safetensors", weights)
        plot_curves(
            records, self.path / "curves.png", title=summary["scenario"], metrics=self._metrics
        )
        sealed = sealed_summary(summary, self.seal, rounds=self.journal.head, model=weights)
        replace_file(self.path / "summary.json", (json.dumps(sealed, indent=2) + "\n").encode())
        self.checkpoint_file.path.unlink(missing_ok=True)


def _doubt(kept: Sequence[Entry[MeasuredRound]], checkpoint: Checkpoint) -> str | None:
    """Return why lines are not those that a checkpoint vouches for, or None if they are."""
    if not kept:
        return "lacks the rounds that the checkpoint vouches for"
    if kept[-1].head != checkpoint.journal_head:
        return "its lines are not those that the checkpoint vouches for: one was changed or moved"
    return None
