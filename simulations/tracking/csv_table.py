"""A table that spreadsheets and pandas read."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_defense.atomic_write import append_line, replace_file
from simulations.tracking.base import Sink, TrackedRun, Tracker, Values


@dataclass(frozen=True, kw_only=True)
class CSVTable(Tracker):
    """A line for each round in `rounds.csv` of the results folder.

    Example:
        >>> CSVTable()
        CSVTable()
    """

    def open(self, run: TrackedRun) -> Sink:
        """Begin the table anew, with the rounds that were finished."""
        sink = _Table(run.folder / "rounds.csv")
        for server_round, values in run.finished:
            sink.write(server_round, values)
        return sink


class _Table:
    """Rounds below each other; a column that comes later stays empty in what came before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: dict[str, None] = {}
        self._rows: list[dict[str, float]] = []

    def write(self, server_round: int, values: Values) -> None:
        row = {"round": server_round, **values}
        known = len(self._columns)
        self._columns |= dict.fromkeys(row)
        self._rows.append(row)
        if len(self._columns) > known:
            lines = [self._line(self._columns), *map(self._cells, self._rows)]
            replace_file(self._path, "".join(f"{line}\n" for line in lines).encode())
        else:
            append_line(self._path, self._cells(row))

    def close(self, *, finished: bool) -> None:
        """Do nothing: every line is on the disk."""

    def _cells(self, row: dict[str, float]) -> str:
        return self._line(row.get(column, "") for column in self._columns)

    @staticmethod
    def _line(cells: Iterable[Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(cells)
        return text.getvalue()
