from pathlib import Path

import pytest

from simulations.scenario import ConfigError
from simulations.scenario.load import load_scenario
from simulations.scenario.safe_yaml import UnsafeYamlError, read_yaml, read_yaml_file

HOSTILE = {
    "alias": ("a: &x [1]\nb: *x", "line 2: an alias"),
    "laughs": ("a: &a [1]\nb: &b [*a,*a]\nc: [*b,*b]", "an alias"),
    "key twice": ("a: 1\na: 2", "line 2: the key 'a' stands here twice"),
    "inner key twice": ("a: {b: 1, b: 2}", "'b' stands here twice"),
    "lists": ("[" * 3000, "too large"),
    "mappings": ("{" * 3000, "too large"),
    "many": ("[" + "1," * 30_000 + "]", "too large"),
    "long": ("a: " + "x" * 2_000_000, "at most 1000000 characters"),
    "infinite": ("a: .inf", "'.inf' is no number"),
    "nan": ("a: [.nan]", "'.nan' is no number"),
    "digits": ("a: " + "9" * 5000, "not valid YAML"),
    "beyond 64 bits": ("a: 99999999999999999999", "is no number"),
    "merge": ("<<: {a: 1}", "a key must be text, got '<<'"),
    "number as key": ("1: 2", "a key must be text"),
    "list as key": ("? [a]\n: b", "a key must be text"),
    "code": ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
    "date": ("a: 2020-99-99", "not valid YAML"),
    "empty number": ("a: !!int ''", "not valid YAML"),
    "no number": ("a: !!float abc", "not valid YAML"),
    "two documents": ("--- a\n--- b", "not valid YAML"),
    "control": ("\x00", "not valid YAML"),
    "version": ("%YAML 9.9\n---\na", "not valid YAML"),
    "unclosed": ("a: [1", "not valid YAML"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_refused_in_one_line(name: str) -> None:
    text, reason = HOSTILE[name]
    with pytest.raises(UnsafeYamlError) as refused:
        read_yaml(text)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_scenarios_hold_is_read() -> None:
    text = "name: x\nlist: [1, -2.5, true, null]\npart: {name: patch, size: 3}\n"
    assert read_yaml(text) == {
        "name": "x", "list": [1, -2.5, True, None], "part": {"name": "patch", "size": 3}
    }  # fmt: skip


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    binary, large = tmp_path / "binary", tmp_path / "large"
    binary.write_bytes(b"\x80\x02\xff")
    large.write_bytes(b"a" * 1_000_001)
    for path, reason in (
        (binary, "is no text"), (large, "at most 1000000 bytes"), (tmp_path, "is no file"),
        (Path("/dev/zero"), "is no file"), (tmp_path / "absent", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(UnsafeYamlError, match=reason):
            read_yaml_file(path)
        with pytest.raises(ConfigError, match=reason):
            load_scenario(path)


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "../x", "-x", ""])
def test_a_name_stays_in_the_results_folder(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"name: {name!r}\n")
    with pytest.raises(ConfigError, match="name"):
        load_scenario(path)
