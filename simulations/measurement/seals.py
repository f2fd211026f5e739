"""Whether a results folder is as its run wrote it: scenario, rounds, model and summary.

The rounds are sealed one after the other, beginning with the scenario; the checkpoint, later the
summary, holds the last seal. `FL_DEFENSE_KEY_FILE` gives the key, if there is one.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fl_defense.flower.checkpoint import CheckpointFile
from fl_defense.flower.packing import CheckpointError
from fl_defense.rounds.journal import Journal
from fl_defense.seal import Seal
from simulations.scenario import ConfigError

SEALS = "seals"
"""Key of the summary."""


def seal_from_environment() -> Seal:
    """Return the seal with the user's key.

    Raises:
        ConfigError: if the key cannot be had.
    """
    try:
        return Seal.from_environment()
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def journal_of(folder: Path, seal: Seal) -> Journal:
    """Return the journal of a run, which is about the scenario in its folder."""
    scenario = folder / "scenario.yaml"
    about = scenario.read_bytes() if scenario.is_file() else b""
    return Journal(folder / "rounds.jsonl", seal, about)


def sealed_summary(
    summary: Mapping[str, Any], seal: Seal, *, rounds: str, model: bytes
) -> dict[str, Any]:
    """Return a summary with the seals of the rounds, of the model and of itself.

    Args:
        summary: what is known at the end.
        seal: with the key.
        rounds: the last line's seal.
        model: content of model.safetensors.
    """
    seals = {"rounds": rounds, "model": seal.of(model)}
    whole = {**summary, SEALS: seals}
    return {**summary, SEALS: {**seals, "summary": seal.of(_canonical(whole))}}


def doubts(folders: Iterable[Path]) -> list[str]:
    """Return a line for each run in folders, or in folders below them, that was changed.

    Raises:
        ConfigError: if the key cannot be had.
    """
    seal = seal_from_environment()
    runs = dict.fromkeys(
        path.parent
        for folder in folders
        for name in ("rounds.jsonl", "summary.json")
        for path in sorted(folder.rglob(name))
    )
    return [f"{run}: {said}" for run in runs if (said := doubt(run, seal)) is not None]


def doubt(folder: Path, seal: Seal) -> str | None:
    """Return in what a run is not as it was written, or None."""
    try:
        entries = journal_of(folder, seal).read(dict)
        names = {path.name for path in folder.iterdir()}
        if "summary.json" in names:
            summary = json.loads((folder / "summary.json").read_bytes())
            seals = dict(summary[SEALS])
            own = seals.pop("summary")
            if said := seal.refusal(own, _canonical({**summary, SEALS: seals})):
                return f"summary.json {said}"
            if said := seal.refusal(seals["model"], (folder / "model.safetensors").read_bytes()):
                return f"model.safetensors {said}"
            head = seals["rounds"]
        elif "checkpoint" in names:
            head = CheckpointFile(path=folder / "checkpoint", seal=seal).read_head()
        else:
            return None  # the first round is not finished: nothing vouches for its line
    except (KeyError, TypeError):
        return "summary.json carries no seals"
    except CheckpointError as error:
        return str(error).removeprefix(f"{folder}/")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return f"cannot be checked ({' '.join(str(error).split())[:200]})"
    if head not in [entry.head for entry in entries]:
        return "rounds.jsonl was changed: its lines are not those that were written"
    return None


def _canonical(summary: Mapping[str, Any]) -> bytes:
    return json.dumps(summary, sort_keys=True).encode()
