from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from fl_defense.inspections import TriggerSearch
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.gate import DoNoHarmGate
from fl_defense.rounds.repairer import Repairer, RepairState
from fl_defense.rounds.schedule import Schedule
from fl_defense.sanitizers import Sanitized, Sanitizer
from fl_defense.state import State


@dataclass(frozen=True, kw_only=True)
class Drawing(Sanitizer):
    """Changes nothing; notes a number that it draws, as methods draw their images."""

    drawn: list[float] = field(default_factory=list)

    changes_models: ClassVar[bool] = False

    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: State | None = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        self.drawn.append(torch.rand(()).item())
        return Sanitized(model=suspect)


def drawn(model: nn.Module, spec: ModelSpec, rounds: list[int], seed: int) -> list[float]:
    sanitizer, device = Drawing(), torch.device("cpu")
    repairer = Repairer(
        sanitizer=sanitizer, spec=spec, schedule=Schedule(), inspection=TriggerSearch(),
        gate=DoNoHarmGate(spec, 0.5, seed=0, device=device), on_failure="raise", seed=seed,
        device=device,
    )  # fmt: skip
    for server_round in rounds:
        repairer.repair(server_round, model, RepairState(), num_rounds=9, previous=lambda: None)
    return sanitizer.drawn


def test_each_round_and_each_seed_draws_its_own_and_draws_it_again(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    first = drawn(tiny_model, tiny_spec, [1, 2, 3], seed=0)
    other = drawn(tiny_model, tiny_spec, [1, 2, 3], seed=1)
    assert len({*first, *other}) == 6
    assert drawn(tiny_model, tiny_spec, [3, 1], seed=0) == [first[2], first[0]]
