"""The lines of a run, and one seal for all of them that grows with each.

The seal after a line is that of the line together with the seal before; it begins with what the
lines are about. Whoever keeps the last one notices any line that was changed, left out, put in or
moved. The file itself holds the lines alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from fl_defense.atomic_write import append_line, replace_file
from fl_defense.rounds.records import Line, Read, read_lines
from fl_defense.seal import Seal


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[Read]):
    """One line of a journal."""

    value: Read
    """What the line says."""
    text: str
    """The line as it stands in the file."""
    head: str
    """The seal of this line and all before it."""


class Journal:
    """Writes the lines of a run and seals them.

    Args:
        path: a .jsonl file, made with the first line.
        seal: with the key, if there is one.
        about: what the lines are about, such as the text of the scenario.

    >>> Journal(Path("rounds.jsonl"), about=b"a run").head[:12]
    'sha256:2cac1'
    """

    def __init__(self, path: Path, seal: Seal | None = None, about: bytes = b"") -> None:
        self.path = path
        self._seal = seal or Seal()
        self._first = self._seal.of(b"about", about)
        self.head = self._first
        """The seal of all lines so far."""

    def append(self, record: Line) -> None:
        """Write one round and force it to the disk: a crash loses no finished round.

        Raises:
            OSError: if it cannot be written; nothing of it is left in the file then.
        """
        line = record.to_json()
        append_line(self.path, line)
        self.head = self._after(self.head, line)

    def read(self, read: Callable[[dict[str, Any]], Read]) -> list[Entry[Read]]:
        """Read all lines and compute their seals; a last line cut off by a crash is left out.

        Args:
            read: makes a round from a line's mapping; raises TypeError where keys do not fit.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if a line is not a round, with its number.
        """
        entries: list[Entry[Read]] = []
        head = self._first
        for line, value in read_lines(self.path, read):
            head = self._after(head, line)
            entries.append(Entry(value=value, text=line, head=head))
        return entries

    def keep(self, entries: Sequence[Entry[Any]]) -> None:
        """Let the file hold these entries alone, and go on after them.

        Args:
            entries: the first ones of those read.

        Raises:
            OSError: if the file cannot be written.
        """
        if entries:
            replace_file(self.path, "".join(each.text + "\n" for each in entries).encode())
        else:
            self.path.unlink(missing_ok=True)
        self.head = entries[-1].head if entries else self._first

    def _after(self, head: str, line: str) -> str:
        return self._seal.of(head.encode(), line.encode())
