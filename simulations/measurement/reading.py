"""Files of a results folder from anybody: bounded, and every fault one line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fl_defense.validation import one_line
from simulations.scenario import ConfigError

MAX_JSON = 50_000_000
"""Bytes; a summary has a few thousand."""
MISFITS = (
    *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError),
    RecursionError,
)
"""What comes of values of another kind than those that are read."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping that a file of JSON holds.

    Raises:
        ConfigError: if it cannot be read, is too large, or holds anything else.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"must have at most {MAX_JSON} bytes")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        if not isinstance(content, dict):
            raise ValueError(f"must be a mapping, got {type(content).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise ConfigError([f"{path}: cannot be read ({reason})"]) from error
    return content


@contextmanager
def as_written(*folders: Path) -> Iterator[None]:
    """Read what a run has written; what is otherwise laid out is one line, not a traceback.

    Raises:
        ConfigError: if something that is always there is missing, or of another kind.
    """
    where = ", ".join(map(str, folders))
    try:
        yield
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            [f"{where}: is not laid out as a run writes it ({one_line(error)}); take another copy"]
        ) from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")
