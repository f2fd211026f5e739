"""The drop-in example: a stock Flower project with a defended server, and what the README shows."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_defense.rounds.records import RoundOutcome
from fl_defense.sanitizers import DHBE
from simulations.engines import InProcessEngine

ROOT = Path(__file__).parents[1]
DROP_IN = ROOT / "examples/drop_in"
SERVER = DROP_IN / "drop_in/server_app.py"


@pytest.fixture
def drop_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The project on the path, in a folder to write to."""
    monkeypatch.syspath_prepend(str(DROP_IN))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "drop_in"]:
        del sys.modules[name]


def test_the_server_is_what_the_readme_shows() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown == SERVER.read_text()


def test_the_server_has_fifteen_lines_and_no_simulation() -> None:
    code = SERVER.read_text()
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    for path in (DROP_IN / "drop_in").glob("*.py"):
        roots = {
            (node.module or "").partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
        }
        assert "simulations" not in roots
        assert ("fl_defense" in roots) == (path == SERVER)


def test_the_server_trains_with_its_own_clients_and_repairs_what_it_releases(
    drop_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        DHBE, "per_round", lambda: DHBE(iterations=10, batch_size=32, num_scenes=128, patch_size=3)
    )
    outcomes: list[RoundOutcome] = []
    from fl_defense import SanitizingStrategy

    show = SanitizingStrategy._show

    def watch(self: Any, *arguments: Any) -> None:
        self.observe = outcomes.append
        show(self, *arguments)

    monkeypatch.setattr(SanitizingStrategy, "_show", watch)
    from drop_in import client_app, server_app, task  # type: ignore[import-not-found]

    torch.manual_seed(0)
    InProcessEngine().run(server_app.app, client_app.app, 2, torch.device("cpu"))
    assert [outcome.record.sanitized for outcome in outcomes] == [False, False, False, True]
    net = task.Net()
    net.load_state_dict(torch.load(drop_in / "repaired.pt", weights_only=True))
    assert task.test(net, *task.load_part(0, 1)) > 0.8
