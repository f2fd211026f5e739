"""Says what a large federation costs its server, by formulas fitted to `benchmarks.server`.

    python -m benchmarks.scale
    python -m benchmarks.scale --clients 100000 --replies 1000 --weights 50000000

Measures nothing: reads results/server.json. Time and memory grow with replies times weights. Where
rows of several numbers of replies were measured, a line is laid through them; where there is one,
all of it counts as the replies', which is too much rather than too little.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Self

from benchmarks.rows import results_of

BYTES_PER_WEIGHT = 4
GIGABYTE = 10**9
BITS_PER_SECOND = 10 * 10**9
"""Of the server's network: 10 Gbit/s."""
NODE_ID_BYTES = 8
"""Of each client in the list that Flower returns when a round is planned."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A cost that is fixed, and one for each reply; both for one model's size."""

    fixed: float
    per_reply: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Self:
        """Fit (replies, cost) by least squares; through the origin where there is one number.

        Example:
            >>> Line.through([(10, 3.0), (20, 5.0)]).at(30)
            7.0
            >>> Line.through([(10, 3.0)]).at(30)
            9.0
        """
        replies, costs = zip(*points, strict=True)
        middle, mean = fmean(replies), fmean(costs)
        spread = sum((each - middle) ** 2 for each in replies)
        if spread == 0:
            return cls(fixed=0.0, per_reply=mean / middle)
        slope = sum((each - middle) * (cost - mean) for each, cost in points) / spread
        return cls(fixed=mean - slope * middle, per_reply=slope)

    def at(self, replies: int) -> float:
        """Return the cost of so many replies."""
        return self.fixed + self.per_reply * replies


def main(words: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--replies", type=int, default=1_000)
    parser.add_argument("--weights", type=int, default=50_000_000)
    parser.add_argument("--memory", type=float, default=64.0, help="the server's, in GB")
    given = parser.parse_args(words)
    if min(given.clients, given.replies, given.weights, given.memory) <= 0:
        parser.error("numbers must be positive")
    if given.replies > given.clients:
        parser.error(f"--replies: at most the {given.clients} clients, got {given.replies}")
    rows = results_of("server")
    if rows is None:
        parser.error("nothing is fitted: run `python -m benchmarks.server` first")
    sys.stdout.write(tables(rows, given.clients, given.replies, given.weights, given.memory))


def tables(
    rows: Sequence[Mapping[str, Any]],
    clients: int = 100_000,
    replies: int = 1_000,
    weights: int = 50_000_000,
    memory: float = 64.0,
) -> str:
    """Return both tables in markdown, for docs/scale.md."""
    found = traffic(clients, replies, weights), server(rows, replies, weights, memory)
    return "\n\n".join(found) + "\n"


def traffic(clients: int, replies: int, weights: int) -> str:
    """Return the table of what a round moves, by sizes alone."""
    model = weights * BYTES_PER_WEIGHT
    moved = 2 * replies * model
    rows = [
        ("one model", f"{model / GIGABYTE:.1f} GB"),
        ("sent to clients and received from them", f"{moved / GIGABYTE:,.0f} GB"),
        ("that over 10 Gbit/s", f"{8 * moved / BITS_PER_SECOND:,.0f} s"),
        ("most that the SuperLink's database holds", f"{(replies + 1) * model / GIGABYTE:,.0f} GB"),
        ("node ids of all clients", f"{clients * NODE_ID_BYTES / 10**6:.1f} MB"),
        ("one checkpoint", f"{model / GIGABYTE:.1f} GB"),
    ]
    return "\n".join(["| of a round | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def server(rows: Sequence[Mapping[str, Any]], replies: int, weights: int, memory: float) -> str:
    """Return the table of the strategy's time and memory, and of how many replies fit."""
    lines = [
        f"| strategy | CPU s a round | a reply, ms | memory, GB | replies in {memory:.0f} GB |",
        "|" + "---|" * 5,
    ]
    model = weights * BYTES_PER_WEIGHT / GIGABYTE
    for kind in dict.fromkeys(row["kind"] for row in rows):
        seconds, models = fitted(rows, kind, weights)
        fit = int((memory / model - models.fixed) / models.per_reply)
        lines.append(
            f"| {kind} | {seconds.at(replies):,.0f} | {1000 * seconds.per_reply:.0f} "
            f"| {models.at(replies) * model:,.0f} | {max(0, fit):,} |"
        )
    return "\n".join(lines)


def fitted(rows: Sequence[Mapping[str, Any]], kind: str, weights: int) -> tuple[Line, Line]:
    """Return the CPU seconds and the peak, in models, of one kind of strategy."""
    own = [row for row in rows if row["kind"] == kind]
    seconds = [(row["replies"], row["cpu_seconds"] * weights / row["weights"]) for row in own]
    return Line.through(seconds), Line.through(
        [(row["replies"], row["peak_models"]) for row in own]
    )


if __name__ == "__main__":
    main()
