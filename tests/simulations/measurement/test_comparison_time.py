"""Rounds and seconds of compared runs, by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from simulations.measurement.comparison import Comparison
from simulations.measurement.comparison_tables import compare
from simulations.measurement.comparison_time import time_tables
from simulations.measurement.finished_runs import find_runs
from simulations.measurement.intervals import Estimate

NONE, DHBE, BADNETS = {"name": "none"}, {"name": "dhbe"}, {"name": "badnets"}


def write_run(
    root: Path,
    seed: int,
    accuracies: Sequence[float],
    until: tuple[int | None, int | None],
    area: float | None,
    *,
    seconds: float = 10.0,
    **parts: Any,
) -> None:
    folder = root / f"{len(list(root.glob('*')))}"
    folder.mkdir(parents=True)
    scenario = {"name": "x", "seed": seed, "screens": [], **parts}
    (folder / "scenario.yaml").write_text(json.dumps(scenario))
    lines = [
        {"round": number, "rates": {"released": {"accuracy": accuracy}}}
        for number, accuracy in enumerate(accuracies)
    ]
    (folder / "rounds.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    last = sum(accuracies[-3:]) / 3
    fading = {"0.5": until[0], "0.1": until[1]}
    summary = {
        "last_three_rounds": {"released": {"accuracy": last, "robust_accuracy": last}},
        "durability": {"released": {"rounds_until_asr_below": fading, "asr_area": area}},
        "seconds": {"training": 0.75 * seconds, "repair": 0.25 * seconds, "total": seconds},
        "share_of_time": {"training": 0.75, "repair": 0.25},
    }
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    nobody = (None, None)
    write_run(tmp_path, 0, (0.1, 0.8, 0.9, 0.9, 0.9), nobody, None, attack=NONE, defense=NONE)
    write_run(tmp_path, 1, (0.1, 0.6, 0.8, 0.8, 0.8), nobody, None, attack=NONE, defense=NONE)
    for seed, accuracies, until, area, spent in (
        (0, (0.1, 0.7, 0.8, 0.895, 0.9), (1, 4), 0.4, 30.0),
        (1, (0.1, 0.7, 0.75, 0.78, 0.78), (3, None), 0.6, 50.0),
    ):
        write_run(
            tmp_path, seed, accuracies, until, area, seconds=spent, attack=BADNETS, defense=DHBE
        )
    # Honest, too, but defended: honest undefended runs are what others are measured by.
    write_run(tmp_path, 0, (0.1, 0.2, 0.2, 0.2, 0.2), nobody, None, attack=NONE, defense=DHBE)
    return tmp_path


def mean(found: Estimate | None) -> str:
    return "–" if found is None else f"{found.mean:.2f}"


def test_rounds_and_seconds_by_hand(runs: Path) -> None:
    lasting, time = time_tables(Comparison(runs=find_runs([runs])), mean)
    assert lasting.head == [
        "attack.name", "defense.name", "seeds", "ASR < 0.5", "ASR < 0.1", "mean ASR",
        "honest accuracy",
    ]  # fmt: skip
    by_setting = {tuple(row[:2]): list(row[2:]) for row in lasting.rows}
    # Rounds 1 and 3; 4 for one seed of two; seed 0 is at 0.89 in round 3, seed 1 never at 0.79.
    assert by_setting["badnets", "dhbe"] == ["2", "2.0", "4.0 (1 of 2)", "0.50", "3.0 (1 of 2)"]
    # Without an attack nothing fades; both seeds are at their own accuracy in round 2.
    assert by_setting["none", "none"] == ["2", "–", "–", "–", "2.0"]
    assert by_setting["none", "dhbe"] == ["1", "–", "–", "–", "never"]
    assert time.head[-3:] == ["seconds", "training", "repair"]
    assert {tuple(row[:2]): list(row[3:]) for row in time.rows}["badnets", "dhbe"] == [
        "40", "75%", "25%"
    ]  # fmt: skip


def test_json_has_rounds_seconds_differences_and_the_worst_case(runs: Path) -> None:
    write_run(
        runs, 0, (0.1, 0.5, 0.5, 0.5), (None, None), 0.9, attack={"name": "dba"}, defense=DHBE
    )
    write_run(runs, 0, (0.1, 0.6, 0.6, 0.6), (None, None), 1.0, attack=BADNETS, defense=NONE)
    write_run(
        runs, 0, (0.1, 0.4, 0.4, 0.4), (None, None), 1.0, attack={"name": "dba"}, defense=NONE
    )
    groups = json.loads(compare([runs], stage="released", form="json", against=None))
    found = {tuple(each["settings"].values()): each for each in groups}
    badnets = found["badnets", "dhbe"]
    assert badnets["rounds_until_asr_below"]["0.5"]["reached"]["mean"] == 2
    assert badnets["rounds_until_asr_below"]["0.1"]["seeds"] == 2
    assert badnets["rounds_until_asr_below"]["0.1"]["reached"]["count"] == 1
    assert badnets["rounds_until_honest_accuracy"]["reached"]["mean"] == 3
    assert badnets["asr_area"]["mean"] == pytest.approx(0.5)
    assert badnets["seconds"]["total"]["mean"] == 40
    assert badnets["share_of_time"]["repair"]["mean"] == 0.25
    # Seed 0 alone is common: (0.8 + 0.895 + 0.9) / 3 - 0.6.
    assert badnets["difference"]["seeds"] == [0]
    assert badnets["difference"]["to"] == {"attack.name": "badnets", "defense.name": "none"}
    assert badnets["difference"]["accuracy"]["mean"] == pytest.approx(0.865 - 0.6)
    assert found["none", "none"]["difference"] is None
    worst = {key for key, each in found.items() if each["is_worst_case"]}
    assert worst == {("dba", "dhbe"), ("dba", "none")}
    assert [key for key, each in found.items() if each["is_best_under_worst_attack"]] == [
        ("dba", "dhbe")
    ]


def test_bootstrap_stands_in_every_form_and_stays_between_the_seeds(runs: Path) -> None:
    for form in ("text", "markdown", "csv", "latex"):
        shown = compare([runs], stage="released", form=form, against=None, interval="bootstrap")
        # Means of accuracy over the last three rounds: 0.865 and 0.77.
        assert "0.818 [0.770, 0.865]" in shown
        assert "95" in shown
        assert "bootstrap" in shown
        assert "2.0" in shown
        assert "4.0 (1 of 2)" in shown
    differences = compare(
        [runs], stage="released", form="text", against="attack.name=none", interval="bootstrap"
    )
    assert "Difference to attack.name=none" in differences
    with pytest.raises(ValueError, match="--interval: must be one of t, bootstrap, got 'z'"):
        compare([runs], stage="released", form="text", against=None, interval="z")


def test_an_attack_that_goes_on_has_not_failed_to_fade(tmp_path: Path) -> None:
    write_run(tmp_path, 0, (0.1, 0.8, 0.9, 0.9), (None, None), 0.9, attack=BADNETS, defense=NONE)
    write_run(tmp_path, 1, (0.1, 0.8, 0.9, 0.9), (None, None), 0.9, attack=BADNETS, defense=NONE)
    (lasting, _) = time_tables(Comparison(runs=find_runs([tmp_path])), mean)
    assert lasting.rows == [["2", "never", "never", "0.90", "–"]]
    for seed, shown in ((0, "never"), (1, "–")):
        lines = (tmp_path / str(seed) / "rounds.jsonl").read_text().splitlines()
        lines[-1] = json.dumps(json.loads(lines[-1]) | {"malicious": [3]})
        (tmp_path / str(seed) / "rounds.jsonl").write_text("\n".join(lines) + "\n")
        (lasting, _) = time_tables(Comparison(runs=find_runs([tmp_path])), mean)
        assert lasting.rows == [["2", shown, shown, "0.90", "–"]]


def test_stages_without_durability_have_no_such_table(runs: Path) -> None:
    (time,) = time_tables(Comparison(runs=find_runs([runs]), stage="aggregate"), mean)
    assert time.title.startswith("Seconds")
