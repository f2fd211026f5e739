"""A disk that fails at a chosen call, or is without power from then on."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from fl_defense import atomic_write

Kind = Literal["full", "broken", "half", "power"]
ERRORS = {"full": errno.ENOSPC, "broken": errno.EIO, "half": errno.ENOSPC}


class PowerLossError(BaseException):
    """Everything ends here; no code that cleans up reaches the disk any more."""


class FaultyDisk:
    """Stands for `os` where files are written, and for the renaming and removing of paths.

    Args:
        kind: "full" and "broken" refuse one call; "half" takes half of what is written, then
            refuses; "power" takes half of it and nothing from then on.
        at: the number of the call that fails; None: all succeed and are counted.
    """

    def __init__(self, kind: Kind, at: int | None) -> None:
        self.calls: list[str] = []
        self.is_dead = False
        self._kind, self._at = kind, at
        self._names: dict[int, str] = {}
        self._synced: dict[int, int] = {}
        self._fails_next = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return (
            self._guarded(name, real) if name in ("open", "write", "fsync", "ftruncate") else real
        )

    def _guarded(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if self.is_dead:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            place = arguments[0] if name == "open" else self._names.get(arguments[0], "")
            failing = name != "ftruncate" and self._is_due(f"{name} {Path(place).name}")
            if failing or (name == "write" and self._fails_next):
                if name == "write" and self._kind in ("half", "power") and not self._fails_next:
                    taken = real(arguments[0], bytes(arguments[1][: len(arguments[1]) // 2]))
                    if self._kind == "half":
                        self._fails_next = True
                        return taken
                if name == "fsync" and self._kind == "power":
                    self._lose_what_is_not_synced(arguments[0])
                self._fail()
            result = real(*arguments)
            if name == "open":
                self._names[result] = str(place)
                self._synced[result] = os.fstat(result).st_size
            return result

        return call

    def replace(self, path: Path, target: Path) -> Any:
        if self.is_dead:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self._is_due(f"replace {target.name}"):
            self._fail()
        return os.replace(path, target)  # noqa: PTH105 - Path's own is what this stands for

    def unlink(self, path: Path, missing_ok: bool = False) -> None:
        if self.is_dead:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if missing_ok and not path.exists():
            return
        os.unlink(path)  # noqa: PTH108

    def _is_due(self, call: str) -> bool:
        self.calls.append(call)
        return len(self.calls) - 1 == self._at

    def _lose_what_is_not_synced(self, descriptor: int) -> None:
        if Path(self._names[descriptor]).is_file():
            size, synced = os.fstat(descriptor).st_size, self._synced[descriptor]
            os.ftruncate(descriptor, synced + (size - synced) // 2)

    def _fail(self) -> None:
        self._fails_next = False
        if self._kind == "power":
            self.is_dead = True
            raise PowerLossError
        raise OSError(ERRORS[self._kind], os.strerror(ERRORS[self._kind]))


@contextmanager
def faulty_disk(kind: Kind, at: int | None) -> Iterator[FaultyDisk]:
    """Let all files be written through a disk that fails."""
    disk = FaultyDisk(kind, at)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic_write, "os", disk)
        patch.setattr(Path, "replace", lambda path, target: disk.replace(path, Path(target)))
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: disk.unlink(path, missing_ok))
        yield disk
