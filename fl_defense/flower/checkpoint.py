"""What a server writes down after each round, so that a crash costs at most one round.

A checkpoint holds everything that later rounds depend on: the arrays sent to clients and those
released, the attributes of the wrapped strategies (momenta and the like), what the defense carries
from round to round, and the states of the random generators. A file is replaced by an atomic rename
and carries a seal, of the journal of its rounds too; reading it runs no code.
"""

import hashlib
import inspect
import io
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from fl_defense.atomic_write import replace_file
from fl_defense.flower.layouts import Layout
from fl_defense.flower.packing import CheckpointError, pack, unpack
from fl_defense.log import logger
from fl_defense.model.archives import check_torch_archive
from fl_defense.rounds.journal import Journal
from fl_defense.rounds.repairer import RepairState
from fl_defense.seal import Seal
from fl_defense.state import State
from fl_defense.validation import one_line

MAGIC = b"fl-defense checkpoint 2 "
"""First bytes of a file; the number is the format's."""


@dataclass(kw_only=True)
class Carried:
    """What the wrapping strategy carries from one round to the next."""

    round: int = 0
    """The last finished round; 0 before the first."""
    arrays: ArrayRecord | None = None
    """The model that clients are sent."""
    released: ArrayRecord | None = None
    """The model that would be released now."""
    earlier: list[ArrayRecord] = field(default_factory=list)
    """Models that clients were sent in the rounds before, the latest last: references."""
    screens: State | None = None
    """What the screens carry: memories and histories."""
    repair: RepairState = field(default_factory=RepairState)
    """What the repairer carries."""
    rest: str = ""
    """Digest of what is not federated; "" if everything is."""
    layouts: dict[str, Layout] = field(default_factory=dict)
    """How the last valid replies to each type of message were laid out."""


@dataclass(frozen=True, kw_only=True)
class StrategyState:
    """The attributes of one wrapped strategy."""

    name: str
    """Its class."""
    attributes: Mapping[str, Any]
    """Every attribute that is data: settings, momenta, and whatever a user's strategy keeps."""
    left_out: list[str]
    """Attributes that are neither data nor functions, such as open files."""

    @classmethod
    def of(cls, strategy: Strategy) -> Self:
        """Return what `strategy` holds; functions and wrapped strategies are made anew."""
        attributes: dict[str, Any] = {}
        left_out: list[str] = []
        for name, value in vars(strategy).items():
            if inspect.isroutine(value) or isinstance(value, Strategy):
                continue
            try:
                pack(value, name)
            except CheckpointError:
                left_out.append(name)
            else:
                attributes[name] = value
        return cls(name=type(strategy).__name__, attributes=attributes, left_out=left_out)

    def misfit(self, strategy: Strategy) -> str | None:
        """Return which attribute is none that `strategy` could have had, or None.

        Methods stay the strategy's own, and a number stays a number.
        """
        now = vars(strategy)
        for name, value in self.attributes.items():
            if not isinstance(name, str) or not name.isidentifier() or name.startswith("__"):
                return f"{name!r} is no name of an attribute"
            mine = now.get(name, getattr(type(strategy), name, None))
            if inspect.isroutine(mine) or isinstance(mine, Strategy | property):
                return f"{name!r} is no data of {self.name}"
            if isinstance(mine, str | int | float) and _plain_kind(value) != _plain_kind(mine):
                return f"{name!r} must be {_plain_kind(mine)}, got {type(value).__name__}"
        return None

    def bring_back(self, strategy: Strategy) -> None:
        """Set the attributes of `strategy`, and tell which start afresh."""
        vars(strategy).update(self.attributes)
        for name in self.left_out:
            logger.warning("%s.%s was not in the checkpoint and starts afresh", self.name, name)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that later rounds depend on."""

    carried: Carried
    """What the wrapping strategy carries."""
    strategies: list[StrategyState]
    """The wrapped strategies, the outermost first."""
    generators: Mapping[str, Any]
    """States of the global random generators of Python, numpy and torch."""
    journal_head: str = ""
    """The seal of the last line of the journal when this was written; "" without a journal."""

    @classmethod
    def take(cls, carried: Carried, strategies: Iterable[Strategy]) -> Self:
        """Return what is to be kept of a run between two rounds."""
        return cls(
            carried=carried,
            strategies=[StrategyState.of(strategy) for strategy in strategies],
            generators=_generator_states(),
        )

    def bring_back(self, strategies: Iterable[Strategy]) -> None:
        """Set the attributes of the wrapped strategies, and the random generators.

        Raises:
            CheckpointError: if the strategies are of other classes than those that were kept, or an
                attribute is none of theirs.
        """
        strategies = list(strategies)
        kept = [state.name for state in self.strategies]
        found = [type(strategy).__name__ for strategy in strategies]
        if kept != found:
            raise CheckpointError(
                f"checkpoint: written with the strategies {kept}, got {found}; "
                "wrap the same ones, or start the run anew"
            )
        pairs = list(zip(self.strategies, strategies, strict=True))
        for state, strategy in pairs:
            if (misfit := state.misfit(strategy)) is not None:
                raise CheckpointError(f"checkpoint: {misfit}; bring back a copy of the file")
        try:
            _set_generator_states(self.generators)
        except Exception as error:  # whoever forged it may have put anything there
            raise CheckpointError(
                f"checkpoint: holds no state of the generators ({one_line(error)})"
            ) from error
        for state, strategy in pairs:
            state.bring_back(strategy)


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """Where checkpoints are kept; each replaces the one before.

    Example:
        >>> file = CheckpointFile(path=Path("checkpoint"), belongs_to="my run")
        >>> file.read()
        Traceback (most recent call last):
        fl_defense.flower.packing.CheckpointError: checkpoint: cannot be read ...
    """

    path: Path
    """The file; its folder must exist."""
    belongs_to: str = ""
    """Describes the run; a checkpoint of a run described otherwise is refused."""
    seal: Seal = field(default_factory=Seal)
    """With the key, if there is one: without it nobody can forge a checkpoint."""
    journal: Journal | None = None
    """The lines of the run; a checkpoint vouches for those that were there when it was written."""

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the file; after a crash it holds either the old checkpoint or the new one.

        Raises:
            CheckpointError: if something carried is of a kind that cannot be stored.
            OSError: if the file cannot be written; the old one is there still.
        """
        content = {
            "belongs_to": _digest(self.belongs_to.encode()),
            "carried": {**vars(checkpoint.carried), "repair": vars(checkpoint.carried.repair)},
            "strategies": [vars(state) for state in checkpoint.strategies],
            "generators": checkpoint.generators,
        }
        buffer = io.BytesIO()
        torch.save(pack(content, "checkpoint"), buffer)
        payload = buffer.getvalue()
        head = b"" if self.journal is None else self.journal.head.encode()
        seal = self.seal.of(head, payload).encode()
        replace_file(self.path, MAGIC + seal + b" " + head + b"\n" + payload)

    def read(self) -> Checkpoint:
        """Return the checkpoint.

        Raises:
            CheckpointError: if the file is missing, damaged, no checkpoint, or of another run.
        """
        head, payload = self._opened()
        try:
            check_torch_archive(io.BytesIO(payload), len(payload))
            stored = unpack(torch.load(io.BytesIO(payload), weights_only=True))
            belongs_to = stored["belongs_to"]
            checkpoint = _checkpoint_of(stored, head)
        except Exception as error:  # whoever forged it may have put anything there
            raise CheckpointError(
                f"{self.path}: cannot be loaded here ({one_line(error)})"
            ) from error
        if belongs_to != _digest(self.belongs_to.encode()):
            raise CheckpointError(
                f"{self.path}: belongs to a run with other settings; "
                "give it the settings that it was written with, or start the run anew"
            )
        return checkpoint

    def read_head(self) -> str:
        """Return the seal of the journal's last line when the checkpoint was written.

        Raises:
            CheckpointError: if the file is missing, damaged or no checkpoint.
        """
        return self._opened()[0]

    def _opened(self) -> tuple[str, bytes]:
        """Return the journal's seal and what the file holds, as they were sealed together."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror})") from error
        if not content.startswith(MAGIC):
            raise CheckpointError(
                f"{self.path}: not a checkpoint of this version, got {content[:24]!r}; "
                "start the run anew"
            )
        line, _, payload = content.removeprefix(MAGIC).partition(b"\n")
        seal, _, head = line.partition(b" ")
        refusal = self.seal.refusal(seal.decode("latin-1"), head, payload)
        if refusal == "was changed":
            refusal = "damaged, its checksum does not fit"
        if refusal is not None:
            raise CheckpointError(
                f"{self.path}: {refusal}; bring back a copy or start the run anew"
            )
        return head.decode("latin-1"), payload


def _checkpoint_of(stored: Mapping[str, Any], head: str) -> Checkpoint:
    """Return what was stored, if it is what `write` stores.

    Raises:
        TypeError: if something is of another kind.
    """
    carried = Carried(**{**stored["carried"], "repair": RepairState(**stored["carried"]["repair"])})
    strategies = [StrategyState(**state) for state in stored["strategies"]]
    if type(carried.round) is not int or carried.round < 0:
        raise TypeError(f"round must be a number from 0 on, got {carried.round!r}")
    for arrays in (carried.arrays, carried.released, *carried.earlier):
        if not isinstance(arrays, ArrayRecord | None):
            raise TypeError(f"models must be arrays, got {type(arrays).__name__}")
    if not isinstance(carried.layouts, dict) or not isinstance(stored["generators"], dict):
        raise TypeError("layouts and generators must be mappings")
    return Checkpoint(
        carried=carried,
        strategies=strategies,
        generators=stored["generators"],
        journal_head=head,
    )


def _generator_states() -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's global random generators."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - Flower's DP draws from it
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, [int(key) for key in keys], *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = [state.cpu() for state in torch.cuda.get_rng_state_all()]
    return states


def _set_generator_states(states: Mapping[str, Any]) -> None:
    """Bring back what `_generator_states` returned."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        # There may be fewer GPUs than when this was written.
        for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
            torch.cuda.set_rng_state(state, device)


def _plain_kind(value: object) -> str:
    """Return the word for a text or a number; numpy's numbers are numbers."""
    if isinstance(value, str):
        return "text"
    return "a number" if isinstance(value, int | float | np.number | np.bool_) else "something else"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
