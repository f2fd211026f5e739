"""What one begins with: the lists, a scenario of one's own, a Flower app."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from fl_defense.sanitizers import SANITIZERS
from simulations import shipped
from simulations.cli.main import app
from simulations.scenario.load import load_scenario, scenario_schema
from simulations.scenario.tables import TABLES


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_one_part_is_listed_by_itself() -> None:
    shown = call("list", "clp").stdout
    assert "threshold" in shown
    assert "iterations" not in shown
    kind = call("list", "defense").stdout
    assert all(re.search(rf"^{name}  [A-Z]", kind, re.MULTILINE) for name in SANITIZERS)
    assert "badnets" not in kind
    # A name of two tables is shown of both.
    assert set(json.loads(call("list", "none", "--json").stdout)) == {"attack", "defense"}


def test_the_list_is_json_for_other_programs() -> None:
    told = json.loads(call("list", "--json").stdout)
    assert told.keys() == {"scenario", *TABLES}
    assert [each["name"] for each in told["defense"]] == list(SANITIZERS)
    (dhbe,) = (each for each in told["defense"] if each["name"] == "dhbe")
    assert {"key": "iterations", "default": 150} in [
        {key: field[key] for key in ("key", "default")} for field in dhbe["fields"]
    ]
    (name, *_) = told["scenario"][0]["fields"]
    assert "default" not in name


def test_scenarios_are_listed_with_what_they_show() -> None:
    told = json.loads(call("list", "scenarios", "--json").stdout)["scenarios"]
    assert [each["name"] for each in told] == list(shipped.scenarios())
    assert all(re.match(r"[A-Z].{30}", each["about"]) for each in told)
    assert "yaml-language-server" not in str(told)


def test_an_unknown_name_is_one_line_with_the_kinds() -> None:
    result = call("list", "dbhe")
    assert result.exit_code == 2
    assert (
        "list: nothing is called 'dbhe'; did you mean 'dhbe'?; kinds: scenario, " in result.stderr
    )
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["quickstart", "digits-repair-only", "digits_repair_only"])
def test_a_scenario_that_ships_runs_by_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("run", name, "--dry-run", "--engine", "in-process")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(name.replace("-", "_"))


def test_a_path_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("name: mine\ndata: {name: digits}\nengine: {name: in-process}\n")
    assert call("run", "quickstart", "--dry-run").stdout.startswith("mine, seed 0")


def test_a_name_that_is_nothing_is_one_line() -> None:
    for arguments, kind in ((("run", "quikstart"), "scenario"), (("sweep", "quikstart"), "plan")):
        result = call(*arguments)
        assert result.exit_code == 2
        assert (
            f"quikstart: is neither a file nor a {kind} that ships; did you mean 'quickstart'?"
            in result.stderr
        )


def test_init_writes_a_commented_scenario_that_loads(tmp_path: Path) -> None:
    folder = tmp_path / "my study"
    result = call("init", str(folder))
    assert result.exit_code == 0, result.output
    path = folder / "scenario.yaml"
    text = path.read_text()
    assert load_scenario(path).name == "my-study"
    assert text.startswith("# yaml-language-server: $schema=scenario.schema.json\n")
    assert text.count("#") > 10
    assert json.loads((folder / "scenario.schema.json").read_text()) == scenario_schema()
    assert call("run", str(path), "--dry-run", "--engine", "in-process").exit_code == 0
    again = call("init", str(folder))
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    assert path.read_text() == text


def test_init_begins_with_any_scenario(tmp_path: Path) -> None:
    assert call("init", str(tmp_path / "a"), "--scenario", "trigger-moves").exit_code == 0
    written = yaml.safe_load((tmp_path / "a/scenario.yaml").read_text())
    shown = yaml.safe_load(shipped.scenarios()["trigger_moves"].read_text())
    assert written == shown | {"name": "a"}
    unknown = call("init", str(tmp_path / "b"), "--scenario", "nothing")
    assert unknown.exit_code == 2
    assert not (tmp_path / "b").exists()


def test_a_new_app_is_called_like_its_folder_and_imports(tmp_path: Path) -> None:
    folder = tmp_path / "My-App"
    result = call("new-app", str(folder))
    assert result.exit_code == 0, result.output
    text = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert "drop" not in text
    project = (folder / "pyproject.toml").read_text()
    assert 'serverapp = "my_app.server_app:app"' in project
    assert 'name = "my-app"' in project
    done = subprocess.run(
        [sys.executable, "-c", "import my_app.server_app, my_app.client_app"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    again = call("new-app", str(folder))
    assert again.exit_code == 2
    assert "is there already" in again.stderr


@pytest.mark.parametrize("name", ["1app", "class", "torch"])
def test_an_app_gets_a_name_that_python_can_import(name: str, tmp_path: Path) -> None:
    result = call("new-app", str(tmp_path / name))
    assert result.exit_code == 2
    assert f"got '{name}'; name another folder" in result.stderr
    assert not (tmp_path / name).exists()


def test_a_folder_of_runs_is_shown_run_by_run(tmp_path: Path) -> None:
    given = tmp_path / "x.yaml"
    given.write_text(
        "name: x\nrounds: 1\ndata: {name: digits, max-train: 40, max-test: 40}\n"
        "model: {name: small-cnn, width: 4}\nclients: {count: 2}\nengine: {name: in-process}\n"
    )
    for seed in ("0", "1"):
        done = call("run", str(given), "--quiet", "--set", f"seed={seed}", "--out",
                    str(tmp_path / "runs" / seed))  # fmt: skip
        assert done.exit_code == 0, done.output
    shown = call("show", str(tmp_path / "runs")).stdout
    assert shown.count("the only round: accuracy") == 2
    assert str(tmp_path / "runs" / "1") in shown


def test_the_shell_completes_names_of_scenarios() -> None:
    done = CliRunner().invoke(
        app,
        [],
        env={"_FL_DEFENSE_COMPLETE": "complete_bash", "COMP_WORDS": "fl-defense run quick",
             "COMP_CWORD": "2"},
        prog_name="fl-defense",
    )  # fmt: skip
    assert "quickstart" in done.stdout
