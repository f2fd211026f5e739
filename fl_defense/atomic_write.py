"""The one way in which files are written: a crash leaves the old content or the new, no mixture.

What the system refuses (a full disk, a broken one, missing rights) is an OSError that names the
file; what was there before is there still.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves either the old content or the new, never a mixture.

    A link is followed: what it points to is replaced.

    Raises:
        OSError: if it cannot be written, with its name; the old content is there still.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(target.name + ".tmp")
    with _named(path):
        if target.exists() and not target.is_file():
            raise OSError(errno.EEXIST, "is there and is no file")
        try:
            _write(temporary, content, os.O_TRUNC)
            temporary.replace(target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)


def append_line(path: Path, line: str) -> None:
    """Append one line to a text file and force it to the disk.

    Raises:
        OSError: if it cannot be written, with its name; nothing of the line is left in it then.
    """
    with _named(path):
        is_new = not path.exists()
        _write(path, line.encode() + b"\n", os.O_APPEND)
        if is_new:
            _sync_folder(path.parent)


def _write(path: Path, content: bytes, flag: int) -> None:
    """Write all of the content, or leave the file as long as it was."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        try:
            left = memoryview(content)
            while left:
                # A full disk may take a part: the next call says what is the matter.
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Force a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Give each OSError the name of the file that was to be written."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
