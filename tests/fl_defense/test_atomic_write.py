"""What is left of a file when the system refuses a part of its writing."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from fl_defense.atomic_write import append_line, replace_file

REFUSALS = {"full": errno.ENOSPC, "broken": errno.EIO}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "file"
    replace_file(found, b"old\n")
    return found


def short_writes(monkeypatch: pytest.MonkeyPatch, most: int, then: int | None = None) -> None:
    """Let the system take so many bytes at a time; refuse the second call if `then` says so."""
    write, calls = os.write, []

    def takes_a_part(descriptor: int, content: Any) -> int:
        calls.append(1)
        if then is not None and len(calls) > 1:
            raise OSError(then, os.strerror(then))
        return write(descriptor, content[:most])

    monkeypatch.setattr(os, "write", takes_a_part)


def test_short_writes_are_gone_on_with(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_writes(monkeypatch, 3)
    replace_file(path, b"new and longer\n")
    append_line(path, "and a line")
    assert path.read_bytes() == b"new and longer\nand a line\n"


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_is_refused_on_the_way_leaves_the_old_content_and_nothing_else(
    kind: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for write in (lambda: replace_file(path, b"new and longer"),
                  lambda: append_line(path, "a line")):  # fmt: skip
        with monkeypatch.context() as patch:
            short_writes(patch, 3, REFUSALS[kind])
            with pytest.raises(OSError, match=os.strerror(REFUSALS[kind])) as caught:
                write()
        assert caught.value.filename == str(path)
        assert path.read_bytes() == b"old\n"
        assert [each.name for each in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["open", "fsync", "close"])
def test_each_call_may_be_refused(call: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(os, call)

    def refuses(*arguments: Any) -> Any:
        if call == "close":
            real(*arguments)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, refuses)
    with pytest.raises(OSError, match="Input/output error") as caught:
        replace_file(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old\n"


def test_a_link_is_followed_and_no_folder_replaced(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    replace_file(link, b"through the link")
    assert link.is_symlink()
    assert path.read_bytes() == b"through the link"
    with pytest.raises(OSError, match="is there and is no file"):
        replace_file(path.parent, b"content")
