"""The README's code runs as it stands, and its commands and names exist."""

import re
import sys
import types
from functools import partial
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_defense.sanitizers import DHBE, SANITIZERS
from simulations.engines import run_federation
from simulations.models import SmallCNN
from simulations.scenario import InProcessEngine, load_scenario

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_drop_in_server_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    project = types.ModuleType("my_project")
    project.Net = partial(SmallCNN(width=4).build, (3, 32, 32), 10)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_project", project)
    monkeypatch.setattr(DHBE, "per_round", lambda: DHBE(iterations=2, batch_size=8, num_scenes=32))
    names: dict[str, object] = {}
    exec(code, names)

    client = ClientApp()
    metrics = MetricRecord({"num-examples": 1})

    @client.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content["arrays"]
        assert isinstance(arrays, ArrayRecord)
        state = arrays.to_torch_state_dict()
        moved = {k: v + 0.01 if v.is_floating_point() else v for k, v in state.items()}
        content = RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics})
        return Message(content, reply_to=message)

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    seen: list[ArrayRecord] = []
    monkeypatch.setattr(torch, "save", lambda state, path: seen.append(state))
    run_federation(InProcessEngine(), names["app"], client, 3)  # type: ignore[arg-type]
    assert len(seen) == 1
    assert len(code.strip().splitlines()) <= 18


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
    for target in re.findall(r"make (\w+)", README):
        assert f"\n{target}:" in makefile, target
