"""Seals hold for what was sealed and for nothing else."""

from pathlib import Path

import pytest

from fl_defense.seal import KEY, KEY_FILE, Seal

MINE, OTHER = Seal(key=b"sixteen bytes or more"), Seal(key=b"another key of sixteen")


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.delenv(KEY_FILE, raising=False)


@pytest.mark.parametrize("seal", [Seal(), MINE])
def test_nothing_moves_from_one_part_into_the_next(seal: Seal) -> None:
    assert (
        len({seal.of(b"ab", b"c"), seal.of(b"a", b"bc"), seal.of(b"abc"), seal.of(b"abc", b"")})
        == 4
    )
    assert seal.refusal(seal.of(b"ab", b"c"), b"ab", b"c") is None


@pytest.mark.parametrize(
    ("reader", "said", "reason"),
    [
        (Seal(), Seal().of(b"y"), "was changed"),
        (Seal(), "", "was changed"),
        (Seal(), "ünsinn", "was changed"),
        (Seal(), MINE.of(b"x"), "is sealed with a key; give it by FL_DEFENSE_KEY_FILE"),
        (MINE, Seal().of(b"x"), "is not sealed with a key"),
        (MINE, OTHER.of(b"x"), "was changed, or sealed with another key"),
    ],
)
def test_why_a_seal_does_not_hold(reader: Seal, said: str, reason: str) -> None:
    assert reader.refusal(said, b"x") == reason


def test_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Seal.from_environment() == Seal()
    path = tmp_path / "key"
    path.write_bytes(MINE.key + b"\n")
    monkeypatch.setenv(KEY_FILE, str(path))
    assert Seal.from_environment() == MINE
    monkeypatch.setenv(KEY, OTHER.key.decode())
    with pytest.raises(ValueError, match="are both set; unset one"):
        Seal.from_environment()
    monkeypatch.delenv(KEY_FILE)
    assert Seal.from_environment() == OTHER


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (KEY, "", "FL_DEFENSE_KEY: is empty"),
        (KEY, "short", "FL_DEFENSE_KEY: key must have at least 16 bytes, got 5"),
        (KEY_FILE, "/nowhere/key", r"FL_DEFENSE_KEY_FILE: /nowhere/key: cannot be read \(No such"),
    ],
)
def test_a_key_that_cannot_be_used(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        Seal.from_environment()


def test_a_key_is_never_shown() -> None:
    assert "sixteen" not in repr(MINE)
