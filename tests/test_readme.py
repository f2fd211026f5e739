"""The README's commands and names exist; tests/test_examples.py runs its code."""

import re
from pathlib import Path

from fl_defense.sanitizers import SANITIZERS
from simulations.scenario.load import load_scenario

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_backdoors_are_a_scenarios(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\ndata: {{name: gtsrb}}\n{text}")
    assert [backdoor.sources for backdoor in load_scenario(path).backdoors] == [None, (14, 17)]


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
