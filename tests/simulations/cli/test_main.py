import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fl_defense.sanitizers import DHBE
from simulations.cli.main import app
from simulations.federation import client_app
from tests.quick import SEARCH_IN_YAML

SCENARIO = f"""
name: small
rounds: 1
data: {{name: digits, max-train: 80, max-test: 40}}
model: {{name: small-cnn, width: 4}}
clients: {{count: 4}}
attack: {{name: badnets, malicious: [1]}}
engine: {{name: in-process}}
repair: {{inspection: {SEARCH_IN_YAML}, verify: {SEARCH_IN_YAML}}}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SCENARIO)
    return str(path)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_run_prints_a_table_and_where_the_results_are(scenario: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call("run", scenario, "--out", str(out))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1] == "4 clients, 4 a round, malicious: 1"
    assert lines[2].split()[:2] == ["round", "accuracy"]
    assert [line.split()[0] for line in lines[3:5]] == ["0", "1"]
    assert f"results: {out}" in lines
    assert (out / "summary.json").exists()


def test_quiet_prints_the_summary_alone(scenario: str, tmp_path: Path) -> None:
    result = call("run", scenario, "--quiet", "--out", str(tmp_path / "out"))
    assert result.stdout.startswith("the only round: accuracy ")
    assert len(result.stdout.splitlines()) == 3


def test_a_source_specific_backdoor_says_what_other_classes_suffer(
    scenario: str, tmp_path: Path
) -> None:
    result = call("run", scenario, "--quiet", "--set", "backdoor.sources=[3,5]", "--out",
                  str(tmp_path / "out"))  # fmt: skip
    assert result.exit_code == 0, result.output
    line = result.stdout.splitlines()[0]
    assert re.match(
        r"the only round: accuracy \d\.\d+, ASR \d\.\d+, robust accuracy \d\.\d+, "
        r"triggered images of other classes kept \d\.\d+ \(before repair: ", line
    )  # fmt: skip


def test_set_and_engine_reach_the_scenario(scenario: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call("run", scenario, "--set", "seed=4", "--engine", "in-process", "--set",
                  "attack.name=none", "--out", str(out))  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["seed"] == 4
    assert summary["malicious"] == []


def test_bad_input_is_one_line_per_fault_exit_2_and_writes_nothing(
    scenario: str, tmp_path: Path
) -> None:
    result = call("run", scenario, "--set", "rounds=0", "--set", "sede=1", "--out",
                  str(tmp_path / "out"))  # fmt: skip
    assert result.exit_code == 2
    faults = result.stderr.splitlines()
    assert len(faults) == 2
    assert "rounds: input should be greater than or equal to 1, got 0" in faults[0]
    assert "sede: unknown key; did you mean 'seed'?" in faults[1]
    assert not (tmp_path / "out").exists()


def test_resume_takes_a_folder_alone(scenario: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments in (
        [],
        [scenario, "--resume", str(out)],
        ["--resume", str(out), "--set", "seed=1"],
    ):
        result = call("run", *arguments)
        assert result.exit_code == 2
        assert "takes a scenario and its options, or --resume FOLDER alone" in result.stderr
    assert call("run", scenario, "--out", str(out), "--quiet").exit_code == 0
    result = call("run", "--resume", str(out))
    assert result.exit_code == 2
    assert "the run is finished; there is nothing to resume" in result.stderr
    (out / "summary.json").unlink()
    result = call("run", "--resume", str(out))
    assert result.exit_code == 0, result.output
    assert (out / "summary.json").exists()


def test_a_missing_scenario_is_one_line(tmp_path: Path) -> None:
    result = call("run", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


def test_a_failed_federation_exits_1(
    scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise MemoryError("too big")

    monkeypatch.setattr(client_app, "train_client", fails)
    result = call("run", scenario, "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "failed: round 1: no client is left (4 failed" in result.stderr
    assert (tmp_path / "out" / "rounds.jsonl").exists()


def test_a_defense_that_crashes_is_told_as_failed_and_not_as_refused(
    scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashes(*args: object, **kwargs: object) -> None:
        raise ArithmeticError("diverged")

    monkeypatch.setattr(DHBE, "sanitize", crashes)
    out = tmp_path / "out"
    result = call("run", scenario, "--quiet", "--out", str(out), "--set", "defense.name=dhbe")
    assert result.exit_code == 0, result.output
    told = "repairs refused: 0, repairs failed: 1, replies rejected: 0, clients failed: 0"
    assert told in result.stdout.splitlines()
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["num_refused"], summary["num_failed_repairs"]) == (0, 1)


def test_show_prints_what_run_printed(scenario: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = call("run", scenario, "--out", str(out)).stdout.splitlines()
    assert call("show", str(out)).stdout.splitlines() == ran[2:]
    (out / "summary.json").unlink()
    unfinished = call("show", str(out))
    assert unfinished.exit_code == 0
    assert unfinished.stdout.splitlines()[-1].startswith("not finished; fl-defense run --resume")
    missing = call("show", str(tmp_path / "none"))
    assert missing.exit_code == 2
    assert missing.stderr.count("\n") == 1


def test_list_names_every_part_with_its_fields() -> None:
    result = call("list")
    assert result.exit_code == 0
    for known in ("digits", "resnet", "patch", "warped", "badnets", "bulyan", "dhbe", "in-process",
                  "poison-rate", "presets: per-round, faithful",
                  "with these defaults cut after submodule 7"):  # fmt: skip
        assert known in result.stdout


def test_list_spells_sentences_out_and_defaults_as_yaml_does() -> None:
    shown = " ".join(call("list").stdout.split())
    for line in (
        "position bottom-right A corner, the center, or [row, column] of the upper left pixel.",
        "color [1.0] Brightness of the pattern's ones",
        "pre-activation false Normalise and activate before",
        "balance-classes true Draw batches",
        "max-train null Use only this many",
        "surrogate {name: scenes} Where unlabelled images come from",
        "root (required) Folder with",
        "name (required) Names the results folder.",
        "rounds 10 Rounds of training",
        "training.batch-size 32 Images per step.",
        "repair.schedule.first-round 1 First",
        "repair.reply-check.max-abs 1000000.0",
        "backdoor.trigger patch What is put on an image.",
        "aggregator fedavg The strategy that",
    ):
        assert line in shown
    for python in ("True", "False", "None", "Scenes()", "(0.5,)", "\\["):
        assert python not in shown


def test_schema_is_json() -> None:
    schema = json.loads(call("schema").stdout)
    assert schema["properties"]["defense"]


def test_calibrate_prints_the_option_to_run_with(scenario: str, tmp_path: Path) -> None:
    folders = [str(tmp_path / f"seed-{seed}") for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        result = call("run", scenario, "--quiet", "--set", "attack.name=none", "--set",
                      "defense.name=none", "--set", "repair.schedule.on-suspicion=history",
                      "--set", f"seed={seed}", "--out", folder)  # fmt: skip
        assert result.exit_code == 0, result.output
    result = call("calibrate", *folders, "--false-positive-rate", "0.5")
    assert result.exit_code == 0, result.output
    told, option = result.stdout.splitlines()
    assert re.fullmatch(
        r"2 rounds of 2 runs without attackers: anomaly \d+\.\d\d to \d+\.\d\d, median .*", told
    )
    assert re.fullmatch(r"--set repair\.schedule\.on-suspicion=\d+\.\d{3}", option)
    refused = call("calibrate", *folders)
    assert refused.exit_code == 2
    assert "needs at least 20 benign models, got 2" in refused.stderr


def test_version_and_short_help() -> None:
    assert re.fullmatch(r"fl-defense \d+\.\d+\.\d+\S*\n", call("--version").stdout)
    assert call("-h").stdout == call("--help").stdout
    assert "--resume" in call("run", "-h").stdout


def test_a_dry_run_tries_everything_and_writes_nothing(scenario: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call("run", scenario, "--dry-run", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("nothing was run")
    result = call("run", scenario, "--dry-run", "--set", "partition={name: dirichlet, alpha: 0.001,"
                  " min-size: 40}", "--out", str(out))  # fmt: skip
    assert result.exit_code == 2
    assert "partition: " in result.stderr
    assert not out.exists()


def test_several_folders_are_shown_one_after_the_other(scenario: str, tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        assert call("run", scenario, "--quiet", "--out", folder).exit_code == 0
    shown = call("show", *folders).stdout
    assert shown.count("the only round: accuracy") == 2
    assert call("compare", *folders).exit_code == 2  # the same settings and seed
    assert call("compare", folders[0]).stdout.splitlines()[1].split()[:2] == ["seeds", "accuracy"]
