"""Models that clients were sent in earlier rounds, and when to go back to one of them.

Who is named in a round has mostly taught before. What the model learned then is in it, sleeping: a
repair does not take it all, and honest training wakes what is left. An earlier model never had it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fl_defense.screens.base import EarlierModel
from fl_defense.validation import require_at_least, require_share


@dataclass(frozen=True, kw_only=True)
class RewindPolicy:
    """When a federation goes back to an earlier model.

    Raises:
        ValueError: if a setting is out of its range.
    """

    most_kept: int = 4
    """Earlier models that are kept, of ages that double from one to the next: 4 reach back 8 to 15
    rounds. 0: the federation never goes back."""
    least_fall: float = 0.5
    """Share of the reaction of the model sent out that an earlier one must lack, in [0, 1]."""

    most_times: int = 1
    """How often one node can make a federation go back for one class: without a bound a few
    attackers could hold it where it is."""

    def __post_init__(self) -> None:
        require_at_least(self, most_kept=0, most_times=0)
        require_share(self, "least_fall")


@dataclass(frozen=True, kw_only=True)
class Past:
    """A few earlier models, and for whom a federation has gone back already."""

    models: tuple[EarlierModel, ...] = ()
    """The oldest first."""
    accused: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """How often it went back because of a node and the class that it taught."""

    def after(
        self, server_round: int, sent: Mapping[str, Tensor], most: int, first_round: int
    ) -> "Past":
        """Return the past after a round.

        Args:
            server_round: the round.
            sent: the model that was sent out in it; it is copied.
            most: models that may be kept.
            first_round: older models are dropped: nothing had been learned.
        """
        if most == 0:
            return Past(accused=self.accused)
        new = EarlierModel(round=server_round, arrays={name: sent[name].clone() for name in sent})
        oldest_of: dict[int, EarlierModel] = {}
        for model in (*self.models, new):
            # Ages in the next round: 1, 2 to 3, 4 to 7, and so on; of each the oldest stays.
            step = (server_round + 1 - model.round).bit_length()
            if model.round >= first_round and step <= most:
                oldest_of.setdefault(step, model)
        models = sorted(oldest_of.values(), key=lambda model: model.round)
        return Past(models=tuple(models), accused=self.accused)

    def gone_back(self, to: EarlierModel, accused: Iterable[tuple[int, int]]) -> "Past":
        """Return the past once an earlier model is sent again, because of these nodes."""
        return Past(
            models=tuple(model for model in self.models if model.round < to.round),
            accused={
                **self.accused,
                **{each: self.accused.get(each, 0) + 1 for each in set(accused)},
            },
        )

    def to_state(self) -> dict[str, Any]:
        """Return tensors, numbers and strings."""
        return {
            "models": [[model.round, dict(model.arrays)] for model in self.models],
            "accused": [[*each, times] for each, times in sorted(self.accused.items())],
        }

    @classmethod
    def from_state(cls, state: Any, sent: Mapping[str, Tensor], num_classes: int) -> "Past":
        """Return the past that `to_state` has written.

        Args:
            state: what was written.
            sent: the model sent out now, whose names, shapes and dtypes earlier ones must have.
            num_classes: of the model.

        Raises:
            ValueError: if it is damaged or of another model.
        """
        if not isinstance(state, Mapping) or set(state) != {"models", "accused"}:
            raise ValueError("past: must hold models and accused")
        if not isinstance(state["models"], list) or not isinstance(state["accused"], list):
            raise ValueError("past: models and accused must be lists")
        accused: dict[tuple[int, int], int] = {}
        for row in state["accused"]:
            is_triple = isinstance(row, list) and len(row) == 3
            if not is_triple or not all(isinstance(number, int) for number in row):
                raise ValueError(f"past: accused must hold three whole numbers each, got {row!r}")
            node, label, times = row
            if not 0 <= label < num_classes or times < 1:
                raise ValueError(f"past: class or times are out of range in {row!r}")
            accused[node, label] = times
        models = tuple(_read(row, sent) for row in state["models"])
        if any(one.round >= other.round for one, other in pairwise(models)):
            raise ValueError("past: models must be in the order of their rounds")
        return cls(models=models, accused=accused)


def _read(row: Any, sent: Mapping[str, Tensor]) -> EarlierModel:
    """Return one model of the past.

    Raises:
        ValueError: if it is damaged or another model.
    """
    if not isinstance(row, list) or len(row) != 2 or not isinstance(row[0], int):
        raise ValueError("past: models must be pairs of a round and a state dict")
    number, arrays = row
    if not isinstance(arrays, Mapping) or list(arrays) != list(sent):
        raise ValueError(f"past: the model of round {number} has other arrays than the one sent")
    for name in sent:
        was, now = arrays[name], sent[name]
        if not isinstance(was, Tensor) or (was.shape, was.dtype) != (now.shape, now.dtype):
            raise ValueError(f"past: {name} of round {number} must be like the one sent out")
        if was.is_floating_point() and not bool(torch.isfinite(was).all()):
            raise ValueError(f"past: {name} of round {number} must be finite")
    return EarlierModel(round=number, arrays=arrays)
