"""A server needs no extra: the library, the strategy and the commands on model files do without."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

import fl_defense
from simulations.extras import EXTRAS, how_to_get, missing
from tests.test_layers import names_of

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

BRINGS = {"ray": ["flwr"], "mlflow": ["mlflow-skinny"]}
"""Distributions by the package that they bring, where the name does not tell."""

WITHOUT_EXTRAS = """
import sys
from functools import partial
from pathlib import Path
from simulations.extras import EXTRAS

sys.modules.update(dict.fromkeys(EXTRAS))  # None: is not installed

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from typer.testing import CliRunner

from fl_defense import CLP, ModelSpec, NormClipping, SanitizingStrategy
from simulations.cli.main import app
from simulations.engines.local_grid import set_task_identity
from simulations.models.small_cnn import SmallCNN

set_task_identity()
torch.manual_seed(0)
build = partial(SmallCNN(width=4).build, (1, 8, 8), 3)
spec = ModelSpec(build=build, input_shape=(1, 8, 8), num_classes=3)
sent = ArrayRecord(build().state_dict())
strategy = SanitizingStrategy(
    FedAvg(), CLP(), spec, screens=[NormClipping()], verify=None, min_agreement=0
)

class Grid:
    def get_node_ids(self):
        return [1, 2]

messages = list(strategy.configure_train(1, sent, ConfigRecord(), Grid()))
replies = []
for message in messages:
    metrics = MetricRecord({"num-examples": 10})
    content = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
    replies.append(Message(content, reply_to=message))
arrays, metrics = strategy.aggregate_train(1, replies)
assert metrics["defense-sanitized"] == 1 and strategy.released is not None

torch.save(build().state_dict(), "model.pt")
FORM = ["--model", "{name: small-cnn, width: 4}", "--input-shape", "1,8,8", "--classes", "3"]
for command in (
    ["inspect", "model.pt", "--inspection", "freeeagle"],
    ["repair", "model.pt", "--defense", "clp", "--out", "repaired.pt", "--set", "verify=null"],
):
    done = CliRunner().invoke(app, [*command, *FORM])
    assert done.exit_code == 0, done.output
for command, line in (
    (["run", "quickstart"], "matplotlib: not installed; pip install 'fl-defense[simulation]'"),
    (["run", "quickstart", "--engine", "ray"], "ray, matplotlib: not installed; pip install"),
    (["report", "."], "jinja2: not installed; pip install 'fl-defense[report]'"),
    (["inspect", "model.pt", "--picture", "x.png", *FORM], "matplotlib: not installed; pip"),
):
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: " + line) and done.stderr.count("\\n") == 1, done.stderr
assert not Path("results").exists()
assert not any(sys.modules[name] for name in EXTRAS)
"""


def test_library_strategy_and_model_files_need_no_extra(tmp_path: Path) -> None:
    """One process asks all, for the imports take longer than all else."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_extra_brings_what_is_said_of_it() -> None:
    optional = PROJECT["optional-dependencies"]
    needed_by_all = names_of(PROJECT["dependencies"])
    distributions = packages_distributions()
    for package, extra in EXTRAS.items():
        found = BRINGS.get(package) or distributions.get(package, [package])
        wanted = names_of(found)
        assert wanted & names_of(optional[extra]), package
        assert package == "ray" or not wanted & needed_by_all, package


def test_a_missing_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing(["scipy", "matplotlib"]) == []
    for name in ("plotly", "jinja2", "ray"):
        monkeypatch.setitem(sys.modules, name, None)
    assert missing(["plotly", "ray", "scipy", "jinja2"]) == [
        "plotly, jinja2: not installed; pip install 'fl-defense[report]'",
        "ray: not installed; pip install 'fl-defense[simulation]'",
    ]
    assert how_to_get("plotly.graph_objects") == (
        "plotly: not installed; pip install 'fl-defense[report]'"
    )
    assert how_to_get("somebodys") is None


def test_the_version_is_said_once_more_where_papers_find_it() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    # Flower wants it in pyproject.toml, too, or `flwr run .` refuses the app.
    assert citation["version"] == PROJECT["version"] == fl_defense.__version__
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
