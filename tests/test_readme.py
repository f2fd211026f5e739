"""The README's commands and names exist; tests/test_examples.py runs its code."""

import re
from pathlib import Path

from fl_defense.sanitizers import SANITIZERS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_defense_is_in_the_table() -> None:
    for name in SANITIZERS:
        assert f"`{name}`" in README


def test_every_file_that_is_named_exists() -> None:
    for path in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"configs/scenarios/\w+\.yaml", README):
        assert (ROOT / path).exists(), path


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([\w-]+)", README):
        assert f"\n{target}:" in makefile, target
