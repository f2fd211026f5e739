"""One process at a time writes into a results folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_defense.log import logger
from simulations.scenario import ConfigError


@contextmanager
def sole_writer(folder: Path, *, make: bool = False) -> Iterator[None]:
    """Keep other processes from writing into a folder.

    The folder itself is locked, so that nothing is left in it. The system gives the lock back when
    a process ends, however it ends: a dead one's is not in the way.

    Args:
        folder: the results folder.
        make: whether to make it if it is not there; if not, a missing one is not locked.

    Raises:
        ConfigError: if another process writes into it, or it cannot be made.
    """
    if not make and not folder.is_dir():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(
            [f"{folder}: cannot be written ({error.strerror}); name another folder with --out"]
        ) from error
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            [
                f"{folder}: is being written by another process; wait until it has ended, or name "
                "another folder"
            ]
        ) from None
    except OSError as error:
        # Some network file systems have no locks.
        logger.warning("%s: cannot be locked (%s)", folder, error.strerror)
