"""Rounds of replies that are written down as vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Reply, Screen, ScreenedRound, Screening

CPU = torch.device("cpu")


def line_spec(size: int) -> ModelSpec:
    """A model whose weights are one vector of `size`."""
    build = _Line(size)
    return ModelSpec(build=build, input_shape=(1, 1, size), num_classes=2)


class _Line:
    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self) -> nn.Module:
        return nn.Linear(self.size, 1, bias=False)


def vector(values: Sequence[float]) -> dict[str, Tensor]:
    return {"weight": torch.tensor([list(values)])}


def round_of(
    *updates: Sequence[float], number: int = 1, nodes: Sequence[int] | None = None
) -> ScreenedRound:
    """A round in which each client moved a vector of zeros by its update."""
    nodes = range(len(updates)) if nodes is None else nodes
    return ScreenedRound(
        number=number,
        sent=vector([0.0] * len(updates[0])),
        replies=[
            Reply(node=node, arrays=vector(update), num_examples=10.0)
            for node, update in zip(nodes, updates, strict=True)
        ],
    )


def judged(screen: Screen, *updates: Sequence[float]) -> Screening:
    """What a screen says of one round of updates."""
    return screen.screen(round_of(*updates), line_spec(len(updates[0])), device=CPU)


def weights_of(screening: Screening) -> list[float]:
    return [said.weight for said in screening.verdicts]


def left_out(screening: Screening) -> list[int]:
    return [place for place, said in enumerate(screening.verdicts) if said.weight == 0]


def replaced(screening: Screening, place: int) -> list[float]:
    """The vector that is aggregated in place of a reply's own."""
    arrays = screening.verdicts[place].arrays
    assert arrays is not None
    values: list[float] = arrays["weight"][0].tolist()
    return values
