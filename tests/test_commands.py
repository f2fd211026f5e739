"""Every command in README and docs is run here, if it is done in a moment, or says how long it takes."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulations.cli.main import app
from simulations.data import Digits
from simulations.engines import InProcessEngine
from simulations.federation.run import run_scenario
from simulations.models.small_cnn import SmallCNN
from simulations.scenario.scenario import Clients, Scenario
from tests.test_prose import PAGES

ROOT = Path(__file__).parents[1]
OURS = ("fl-defense", "python", "pip", "make", "flwr", "tensorboard", "uv")
"""Programs whose commands are looked at; the shell's own set the scene."""
TIME = re.compile(r"\b(seconds?|minutes?|hours?|until it is stopped|what is left|likewise)\b")
STEPS_OF_THE_DEMO = "docs/deployment.md"
"""Its bash blocks are those of deploy/demo.sh: tests/test_deployment.py."""


def commands(text: str, fences: str = "bash|sh") -> Iterator[tuple[str, str]]:
    """Yield the commands in a page's blocks, each with its comment."""
    for block in re.findall(rf"^```(?:{fences})\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            command, _, comment = line.partition(" # ")
            if command.split(" ")[0] in OURS:
                yield " ".join(command.split()), comment


RECORD = "docs/results.md"
"""Says of all its commands that they take hours."""


def told(page: Path) -> Iterator[tuple[str, str]]:
    if str(page.relative_to(ROOT)) == RECORD:
        return
    is_demo = str(page.relative_to(ROOT)) == STEPS_OF_THE_DEMO
    yield from commands(page.read_text(), "sh" if is_demo else "bash|sh")


UNMARKED = sorted(
    {command for page in PAGES for command, comment in told(page) if not TIME.search(comment)}
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs that the pages' commands read."""
    folder = tmp_path_factory.mktemp("pages")
    scenario = Scenario(
        name="small",
        rounds=1,
        data=Digits(max_train=40, max_test=40),
        model=SmallCNN(width=4),
        clients=Clients(count=2),
        engine=InProcessEngine(),
    )
    first = folder / "results/quickstart/20260101-120000"
    run_scenario(scenario, first)
    shutil.copytree(first, folder / "results/sweep/one")
    return folder


@pytest.mark.parametrize("command", UNMARKED)
def test_a_command_that_does_not_say_how_long_it_takes_runs(
    command: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(results)
    program, *words = shlex.split(command)
    assert program == "fl-defense", f"{command}: say in a comment how long it takes"
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


def test_the_results_say_that_their_commands_take_hours() -> None:
    assert "Each of the commands on this page takes hours." in (ROOT / RECORD).read_text()


def test_commands_are_found_with_their_comments() -> None:
    text = "```bash\ncd x\nfl-defense run a \\\n    --set b=1   # a minute\nmake x\n```\n```text\nmake y\n```\n"
    assert [*commands(text)] == [("fl-defense run a --set b=1", "a minute"), ("make x", "")]
    assert TIME.search("a minute")
    assert not TIME.search("writes a scenario")
    assert "fl-defense list scenarios" in UNMARKED
