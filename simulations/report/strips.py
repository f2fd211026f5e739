"""The strip of a report: each client in each round, what it was and what was done with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from simulations.measurement.measured_round import MeasuredRound
from simulations.measurement.verdicts import left_out, suspected

MOST_CLIENTS = 40
"""Rows of a strip; beyond that honest clients that nobody suspected are left away."""
WORDS = {
    "kept": "kept",
    "suspected": "suspected, kept in part",
    "left-out": "left out",
    "lost": "rejected or failed",
    "absent": "not asked",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One client in one round."""

    round: int
    client: int
    verdict: str
    """A key of `WORDS`."""
    malicious: bool

    @property
    def title(self) -> str:
        """What the pointer is told."""
        who = "malicious" if self.malicious else "honest"
        return f"round {self.round}, client {self.client} ({who}): {WORDS[self.verdict]}"


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Rows of cells, a row for each client."""

    rounds: list[int]
    rows: list[tuple[int, list[Cell]]]
    num_hidden: int


def strip(rounds: Sequence[MeasuredRound], num_clients: int) -> Strip:
    """Return the strip of all rounds of training."""
    trained = [each for each in rounds if each.round > 0]
    rows = []
    for client in range(num_clients):
        rows.append((client, [_cell(each, client) for each in trained]))
    shown = rows
    if num_clients > MOST_CLIENTS:
        shown = [row for row in rows if any(map(_is_notable, row[1]))][:MOST_CLIENTS]
    return Strip(
        rounds=[each.round for each in trained], rows=shown, num_hidden=len(rows) - len(shown)
    )


def _cell(measured: MeasuredRound, client: int) -> Cell:
    details = measured.record.details
    lost = {each["client"] for name in ("rejections", "failures") for each in details.get(name, ())}
    if client in left_out(measured):
        verdict = "left-out"
    elif client in lost:
        verdict = "lost"
    elif client in suspected(measured):
        verdict = "suspected"
    else:
        verdict = "kept" if client in measured.asked else "absent"
    return Cell(
        round=measured.round, client=client, verdict=verdict,
        malicious=client in measured.malicious,
    )  # fmt: skip


def _is_notable(cell: Cell) -> bool:
    return cell.malicious or cell.verdict not in ("kept", "absent")
