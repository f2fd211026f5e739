"""Seals: a digest of what was written, with a key that only the writer holds if there is one.

Without a key a seal shows damage and thoughtless edits; whoever edits on purpose can seal anew.
With a key (HMAC, RFC 2104) nobody can who does not hold it.
"""

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

KEY, KEY_FILE = "FL_DEFENSE_KEY", "FL_DEFENSE_KEY_FILE"
"""Environment variables: the key as text, or a file that holds it."""
MIN_KEY = 16
"""Bytes that a key has at least."""
PLAIN, KEYED = "sha256:", "hmac-sha256:"


@dataclass(frozen=True, kw_only=True)
class Seal:
    """Seals what is written and checks what is read.

    Raises:
        ValueError: if the key is shorter than 16 bytes.

    >>> seal = Seal(key=b"sixteen bytes or more")
    >>> seal.refusal(seal.of(b"rounds"), b"rounds") is None
    True
    >>> seal.refusal(seal.of(b"rounds"), b"edited")
    'was changed, or sealed with another key'
    """

    key: bytes = field(default=b"", repr=False)
    """Shared by whoever writes and whoever checks; empty: none."""

    def __post_init__(self) -> None:
        if 0 < len(self.key) < MIN_KEY:
            raise ValueError(f"key must have at least {MIN_KEY} bytes, got {len(self.key)}")

    @classmethod
    def from_environment(cls) -> Self:
        """Return the seal with the key that `FL_DEFENSE_KEY` or `FL_DEFENSE_KEY_FILE` gives.

        Raises:
            ValueError: if both are set, the file cannot be read, or the key is too short.
        """
        text, path = os.environ.get(KEY), os.environ.get(KEY_FILE)
        if text is None and path is None:
            return cls()
        if text is not None and path is not None:
            raise ValueError(f"{KEY} and {KEY_FILE} are both set; unset one")
        name, key = KEY, (text or "").encode()
        if path is not None:
            name = KEY_FILE
            try:
                key = Path(path).read_bytes().rstrip(b"\r\n")
            except OSError as error:
                raise ValueError(f"{name}: {path}: cannot be read ({error.strerror})") from error
        if not key:
            raise ValueError(f"{name}: is empty; unset it, or give a key")
        try:
            return cls(key=key)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def of(self, *parts: bytes) -> str:
        """Return the seal of some parts, which says its kind: "sha256:..." or "hmac-sha256:..."."""
        # Lengths first, so that nothing can move from one part into the next.
        whole = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        if self.key:
            return KEYED + hmac.new(self.key, whole, hashlib.sha256).hexdigest()
        return PLAIN + hashlib.sha256(whole).hexdigest()

    def refusal(self, said: str, *parts: bytes) -> str | None:
        """Return why parts are not those that were sealed, or None if they are.

        Args:
            said: the seal that was found beside them.
            parts: what was found.
        """
        if hmac.compare_digest(said.encode(), self.of(*parts).encode()):
            return None
        if self.key and not said.startswith(KEYED):
            return "is not sealed with a key"
        if not self.key and said.startswith(KEYED):
            return f"is sealed with a key; give it by {KEY_FILE}"
        return "was changed, or sealed with another key" if self.key else "was changed"
