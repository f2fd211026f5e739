"""What clients changed: their updates of the weights, compared and edited array by array.

An update is what a client changed in the parameters. BatchNorm's statistics and counters are none:
they are no step of training, and on skewed data their drift would drown all else. All is computed
in float64, so that updates which overflow in float32 are compared like others.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Reply, ScreenedRound, Screening

COLUMNS = 2**18
"""Coordinates of all replies that are compared together; bounds the memory."""
LARGEST_CHANGE = 1e140
"""Changes are cut off here: of networks in float64, too, sums of squares must stay finite."""


@lru_cache(maxsize=4)
def names_of_weights(spec: ModelSpec) -> frozenset[str]:
    """Return the names of what is trained; a network is built for them once, not in each round.

    What is drawn after it must not depend on whether that was in this round: a run that is resumed
    draws as one that never stopped.
    """
    with torch.random.fork_rng(devices=[]):
        return frozenset(name for name, _ in spec.build().named_parameters())


def change(reply: Reply, sent: Mapping[str, Tensor], name: str) -> Tensor:
    """Return what a client changed in one array, in float64."""
    return _difference(reply.arrays[name], sent[name])


def changes(
    shown: ScreenedRound, names: frozenset[str], columns: int = COLUMNS
) -> Iterator[Tensor]:
    """Yield what all clients changed, (replies, coordinates), a block of coordinates at a time.

    Of each reply one array is decoded at a time.

    Args:
        shown: the round.
        names: arrays that are compared.
        columns: coordinates in a block, at most.
    """
    for name in shown.sent:
        if name not in names:
            continue
        old = shown.sent[name].flatten()
        new = [reply.arrays[name].flatten() for reply in shown.replies]
        for start in range(0, len(old), columns):
            some = slice(start, start + columns)
            yield torch.stack([_difference(each[some], old[some]) for each in new])


def inner_products(shown: ScreenedRound, names: frozenset[str]) -> Tensor:
    """Return the inner products of all pairs of updates, (replies, replies), in float64."""
    num = len(shown.replies)
    products = torch.zeros(num, num, dtype=torch.float64)
    for block in changes(shown, names):
        products += block @ block.T
    return products


def norm_of(reply: Reply, sent: Mapping[str, Tensor], names: frozenset[str]) -> float:
    """Return the L2 norm of a reply's update."""
    squares = [change(reply, sent, name).square().sum() for name in sent if name in names]
    return torch.stack(squares).sum().sqrt().item()


def norms_of(products: Tensor) -> Tensor:
    """Return the L2 norms of vectors whose inner products are given, (N,)."""
    return products.diagonal().clamp_min(0).sqrt()


def cosines_of(products: Tensor) -> Tensor:
    """Return the cosines of vectors whose inner products are given, (N, N), in [-1, 1].

    A vector of zeros has no direction: its cosine with every other is 0, and 1 with itself.
    """
    norms = norms_of(products).clamp_min(torch.finfo(torch.float64).tiny)
    # One after the other: a product of two tiny norms would be 0.
    cosines = products / norms[:, None] / norms[None, :]
    return cosines.clamp(-1, 1).fill_diagonal_(1)


def noise_for(sent: Mapping[str, Tensor], names: frozenset[str], std: float) -> dict[str, Tensor]:
    """Draw Gaussian noise for the weights from torch's generator, on the CPU."""
    return {
        name: std * torch.randn(sent[name].shape, dtype=torch.float64)
        for name in sent
        if name in names
    }


def edited(
    reply: Reply,
    sent: Mapping[str, Tensor],
    names: frozenset[str],
    factor: float,
    noise: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return a reply's arrays with its update scaled, and noise added to the weights.

    Args:
        reply: what came back.
        sent: what was sent out.
        names: of the weights; the other arrays stay.
        factor: on the update.
        noise: of each weight's shape, or None.
    """
    arrays = {}
    for name, old in sent.items():
        new = reply.arrays[name]
        if name in names:
            moved = old.double() + factor * _difference(new, old)
            if noise is not None:
                moved += noise[name]
            new = as_sent(moved, old)
        arrays[name] = new
    return arrays


def as_sent(values: Tensor, old: Tensor) -> Tensor:
    """Return values in the dtype of the array sent out, the largest that it holds at most."""
    most = torch.finfo(old.dtype).max
    return values.clamp(-most, most).to(old.dtype)


def too_few(shown: ScreenedRound, least: int) -> Screening | None:
    """Keep the model sent out where there are fewer replies than can be compared; or None."""
    num = len(shown.replies)
    if num >= least:
        return None
    came = "1 reply" if num == 1 else f"{num} replies"
    return Screening.of_nobody(
        shown, keep_sent=f"{came} cannot be told apart, at least {least} are needed"
    )


def median_of(values: Sequence[float] | Tensor) -> float:
    """Return the median, of an even number of values the mean of the middle two."""
    return torch.as_tensor(values, dtype=torch.float64).quantile(0.5).item()


def _difference(new: Tensor, old: Tensor) -> Tensor:
    return (new.double() - old.double()).clamp(-LARGEST_CHANGE, LARGEST_CHANGE)
