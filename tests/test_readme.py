"""What the README alone says; tests/test_documents.py reads all pages, test_examples.py its code."""

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
        assert re.search(rf"^\| `{name}` \|", README, re.MULTILINE), name
