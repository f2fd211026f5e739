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
from fl_defense.flower.checkpoint import Checkpoint, CheckpointError, CheckpointFile
from fl_defense.rounds.records import append_record, read_lines
from fl_defense.screens.apply import ScreenReport
from simulations.measurement.measured_round import MeasuredRound
from simulations.measurement.plots import plot_curves
from simulations.scenario import ConfigError
from simulations.scenario.load import load_scenario
from simulations.scenario.scenario import Scenario

PICTURES = "found"
"""Folder of the patterns that screens found."""


def read_rounds(folder: Path) -> list[MeasuredRound]:
    """Return the finished rounds of a run, be it finished or not.

    Raises:
        ConfigError: if the folder holds none that can be read.
    """
    try:
        return read_lines(folder / "rounds.jsonl", MeasuredRound.from_keys)
    except (OSError, ValueError) as error:
        raise ConfigError([f"{folder}: holds no readable run ({error})"]) from error


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
    """

    def __init__(self, path: Path, scenario: Scenario) -> None:
        self.path = path
        self.checkpoint_file = CheckpointFile(
            path=path / "checkpoint", belongs_to=scenario.to_yaml()
        )

    @classmethod
    def begin(cls, path: Path, scenario: Scenario) -> Self:
        """Make the folder of a new run.

        Raises:
            ConfigError: if the folder already holds a run, or cannot be made.
        """
        if (path / "rounds.jsonl").exists() or (path / "scenario.yaml").exists():
            raise ConfigError(
                [f"{path}: already holds a run; name another folder with --out, or use --resume"]
            )
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
        records = folder._rewind(checkpoint.carried.round if checkpoint else 0)
        return folder, scenario, Interrupted(checkpoint=checkpoint, records=records)

    def _rewind(self, num_finished: int) -> list[MeasuredRound]:
        """Drop what was written after round `num_finished`, and return the records before.

        A crash may come between a round's line and its checkpoint, or cut the line off.

        Raises:
            ConfigError: if the lines do not fit to a checkpoint of that round.
        """
        path = self.path / "rounds.jsonl"
        if not path.exists() and num_finished == 0:
            return []
        try:
            records = read_lines(path, MeasuredRound.from_keys)
        except (OSError, ValueError) as error:
            raise ConfigError([f"{path}: cannot be read ({error}); start the run anew"]) from error
        last = records[-1].round if records else 0
        if not num_finished <= last <= num_finished + 1:
            raise ConfigError(
                [
                    f"{path}: ends with round {last}, but the checkpoint is of round "
                    f"{num_finished}; bring back the missing file or start the run anew"
                ]
            )
        kept = [record for record in records if record.round <= num_finished]
        if num_finished == 0:
            path.unlink()
            return []
        replace_file(path, "".join(record.to_json() + "\n" for record in kept).encode())
        return kept

    def append(self, record: MeasuredRound) -> None:
        """Write one round, to the disk."""
        append_record(self.path / "rounds.jsonl", record)

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
                imsave(content, shown.clamp(0, 1).permute(1, 2, 0).numpy(), format="png")
                replace_file(path, content.getvalue())

    def finish(
        self, summary: dict[str, Any], records: list[MeasuredRound], arrays: dict[str, torch.Tensor]
    ) -> None:
        """Write what is known at the end; the summary comes last and says that all is there."""
        contiguous = {name: value.contiguous() for name, value in arrays.items()}
        replace_file(self.path / "model.safetensors", save(contiguous))
        plot_curves(records, self.path / "curves.png", title=summary["scenario"])
        replace_file(self.path / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
        self.checkpoint_file.path.unlink(missing_ok=True)
