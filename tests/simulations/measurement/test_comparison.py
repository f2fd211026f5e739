import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulations.measurement.comparison import Comparison
from simulations.measurement.comparison_tables import compare, tables
from simulations.measurement.finished_runs import find_runs
from simulations.measurement.intervals import estimate
from simulations.scenario import ConfigError


def run_of(root: Path, seed: int, rates: tuple[float, float, float], **parts: Any) -> None:
    folder = root / f"{len(list(root.glob('*')))}"
    folder.mkdir(parents=True)
    scenario = {"name": "x", "seed": seed, "rounds": 3, **parts}
    (folder / "scenario.yaml").write_text(yaml.safe_dump(scenario))
    names = ("accuracy", "attack_success_rate", "robust_accuracy")
    summary = {"last_three_rounds": {"released": dict(zip(names, rates, strict=True))}}
    (folder / "summary.json").write_text(json.dumps(summary))


NONE, DHBE = {"name": "none"}, {"name": "dhbe", "iterations": 150}
BADNETS, DBA = {"name": "badnets", "boost": 3}, {"name": "dba", "parts": 4}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1):
        run_of(tmp_path, seed, (0.9, 1.0, 0.0), attack=BADNETS, defense=NONE)
        run_of(tmp_path, seed, (0.8 + seed / 10, 0.1, 0.7), attack=BADNETS, defense=DHBE)
        run_of(tmp_path, seed, (0.9, 0.8, 0.2), attack=DBA, defense=NONE)
        run_of(tmp_path, seed, (0.9, 0.4, 0.5), attack=DBA, defense=DHBE)
    return tmp_path


def test_intervals_by_hand() -> None:
    found = estimate([0.1, 0.3])
    # Student's t with one degree of freedom: 12.706 times 0.1414 / sqrt(2).
    assert found.half_width == pytest.approx(12.706 * 0.1, rel=1e-4)
    assert found.bootstrap == (0.1, 0.3)
    assert estimate([0.5]).half_width is None


def test_runs_are_grouped_by_what_differs_and_not_by_what_follows(runs: Path) -> None:
    comparison = Comparison(runs=find_runs([runs]))
    assert comparison.fields == ["attack.name", "defense.name"]
    assert len(comparison.groups) == 4
    group = comparison.groups[1]
    assert group.label == "attack.name=badnets, defense.name=dhbe"
    found = group.estimate(comparison.rate("accuracy"))
    assert found is not None
    assert found.mean == pytest.approx(0.85)


def test_differences_are_paired_by_seed_and_by_attack(runs: Path) -> None:
    _, differences, _ = tables(Comparison(runs=find_runs([runs])))
    badnets, dba = differences.rows
    assert badnets[:4] == ["badnets", "dhbe", "2", "-0.050 ± 0.635"]
    assert dba[:5] == ["dba", "dhbe", "2", "+0.000 ± 0.000", "-0.400 ± 0.000"]


def test_the_best_defense_is_the_one_that_keeps_most_under_its_worst_attack(runs: Path) -> None:
    *_, worst = tables(Comparison(runs=find_runs([runs])))
    assert worst.head == ["defense.name", "worst attack", "accuracy", "ASR", "robust accuracy", ""]
    assert [row[:2] + row[-1:] for row in worst.rows] == [
        ["none", "badnets", ""],
        ["dhbe", "dba", "best"],
    ]


@pytest.mark.parametrize(
    ("form", "piece"),
    [
        ("text", "badnets      none"),
        ("markdown", "| badnets | none | 2 | 0.900 ± 0.000 | 1.000 ± 0.000 | 0.000 ± 0.000 |"),
        ("csv", "badnets,none,2,0.900 ± 0.000"),
        ("latex", r"badnets & none & 2 & 0.900 $\pm$ 0.000"),
    ],
)
def test_every_form_has_every_rate(runs: Path, form: str, piece: str) -> None:
    shown = compare([runs], stage="released", form=form, against=None)
    assert piece in shown
    assert shown.count("robust accuracy") >= 3


def test_json_has_both_intervals(runs: Path) -> None:
    first, *_ = json.loads(compare([runs], stage="released", form="json", against=None))
    assert first["settings"] == {"attack.name": "badnets", "defense.name": "none"}
    assert first["attack_success_rate"]["bootstrap"] == [1.0, 1.0]
    assert first["seeds"] == [0, 1]


def test_what_cannot_be_compared_is_refused_in_one_line(runs: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    given: dict[str, Any] = {"stage": "released", "form": "text", "against": None}
    for folders, change, message in (
        ([empty], {}, "empty: holds no finished run"),
        ([runs], {"stage": "after"}, "--stage: must be one of aggregate, released"),
        ([runs], {"form": "html"}, "--format: must be one of text"),
        ([runs], {"against": "rounds=3"}, r"--against: must be FIELD=VALUE .*attack.name"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare(folders, **(given | change))
    run_of(runs, 0, (0.9, 1.0, 0.0), attack=BADNETS, defense=NONE)
    with pytest.raises(ConfigError, match=r"has the settings and the seed of"):
        compare([runs], **given)
