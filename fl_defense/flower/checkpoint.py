"""What a server writes down after each round, so that a crash costs at most one round.

A checkpoint holds everything that later rounds depend on: the arrays sent to clients and those
released, the attributes of the wrapped strategies (momenta and the like), what the defense carries
from round to round, and the states of the random generators. A file is replaced by an atomic rename
and carries a checksum; reading it runs no code.
"""

import hashlib
import inspect
import io
import pickle
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fl_defense.atomic_write import replace_file
from fl_defense.flower.layouts import Layout
from fl_defense.log import logger
from fl_defense.rounds.repairer import RepairState
from fl_defense.state import State

MAGIC = b"fl-defense checkpoint 1 "
"""First bytes of a file; the number is the format's."""


class CheckpointError(ValueError):
    """A checkpoint cannot be written or must not be used; the message says where and why."""


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
            CheckpointError: if the strategies are of other classes than those that were kept.
        """
        strategies = list(strategies)
        kept = [state.name for state in self.strategies]
        found = [type(strategy).__name__ for strategy in strategies]
        if kept != found:
            raise CheckpointError(
                f"checkpoint: written with the strategies {kept}, got {found}; "
                "wrap the same ones, or start the run anew"
            )
        for state, strategy in zip(self.strategies, strategies, strict=True):
            state.bring_back(strategy)
        _set_generator_states(self.generators)


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """Where checkpoints are kept; each replaces the one before."""

    path: Path
    """The file; its folder must exist."""
    belongs_to: str = ""
    """Describes the run; a checkpoint of a run described otherwise is refused."""

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the file; after a crash it holds either the old checkpoint or the new one.

        Raises:
            CheckpointError: if something carried is of a kind that cannot be stored.
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
        replace_file(self.path, MAGIC + _digest(payload).encode() + b"\n" + payload)

    def read(self) -> Checkpoint:
        """Return the checkpoint.

        Raises:
            CheckpointError: if the file is missing, damaged, no checkpoint, or of another run.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror})") from error
        if not content.startswith(MAGIC):
            raise CheckpointError(
                f"{self.path}: not a checkpoint of this version, got {content[:24]!r}; "
                "start the run anew"
            )
        digest, _, payload = content.removeprefix(MAGIC).partition(b"\n")
        if digest != _digest(payload).encode():
            raise CheckpointError(
                f"{self.path}: damaged, its checksum does not fit; "
                "bring back a copy or start the run anew"
            )
        try:
            stored = unpack(torch.load(io.BytesIO(payload), weights_only=True))
        except (RuntimeError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{self.path}: cannot be loaded here ({error})") from error
        if stored["belongs_to"] != _digest(self.belongs_to.encode()):
            raise CheckpointError(
                f"{self.path}: belongs to a run with other settings; "
                "give it the settings that it was written with, or start the run anew"
            )
        return Checkpoint(
            carried=Carried(
                **{**stored["carried"], "repair": RepairState(**stored["carried"]["repair"])}
            ),
            strategies=[StrategyState(**state) for state in stored["strategies"]],
            generators=stored["generators"],
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


def pack(value: Any, where: str) -> Any:
    """Return `value` made of tensors, numbers, strings and containers, which load without code.

    Raises:
        CheckpointError: if it holds anything else; the message names it after `where`.
    """
    if isinstance(value, np.ndarray | np.generic):
        return _pack_numpy(value, where)
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    if isinstance(value, ArrayRecord):
        return (
            "arrays",
            {name: _pack_numpy(array.numpy(), where) for name, array in value.items()},
        )
    if isinstance(value, Mapping):
        return ("dict", {key: pack(item, f"{where}.{key}") for key, item in value.items()})
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return (kind, [pack(item, f"{where}[{index}]") for index, item in enumerate(value)])
    raise CheckpointError(
        f"{where}: cannot be kept in a checkpoint, got {type(value).__name__}; "
        "carry tensors, arrays, numbers, strings, and lists or dicts of them"
    )


def unpack(value: Any) -> Any:
    """Undo `pack`."""
    if not isinstance(value, tuple):
        return value
    kind, content = value
    match kind:
        case "arrays":
            return ArrayRecord({name: Array(unpack(array)) for name, array in content.items()})
        case "dict":
            return {key: unpack(item) for key, item in content.items()}
        case "list":
            return [unpack(item) for item in content]
        case "tuple":
            return tuple(unpack(item) for item in content)
        case "array":
            return content.numpy()
        case _:
            return content.numpy()[()]


def _pack_numpy(value: Any, where: str) -> tuple[str, Tensor]:
    kind = "array" if isinstance(value, np.ndarray) else "number"
    try:
        return kind, torch.from_numpy(np.array(value))
    except TypeError as error:
        raise CheckpointError(f"{where}: cannot be kept in a checkpoint ({error})") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
