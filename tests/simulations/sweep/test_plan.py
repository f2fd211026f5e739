import logging
from pathlib import Path

import pytest

from simulations.attack.dba import DBA
from simulations.attack.sign_flip import SignFlip
from simulations.scenario import ConfigError
from simulations.sweep.plan import PlannedRun, read_plan

SCENARIO = """
name: small
data: {name: digits}
backdoor: {trigger: {name: bars}}
attack: {name: badnets, malicious: 0.2, poison-rate: 0.3}
"""


def planned(tmp_path: Path, grid: str) -> list[PlannedRun]:
    (tmp_path / "small.yaml").write_text(SCENARIO)
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"scenario: small.yaml\ngrid: {grid}\n")
    return read_plan(plan)


def test_what_a_plan_sets_in_a_part_holds_whichever_name_the_part_gets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    grid = "{attack.malicious: [0.3, 0.4], attack.name: [dba, sign-flip]}"
    runs = planned(tmp_path, grid)
    assert [run.scenario.attack for run in runs] == [
        DBA(malicious=0.3, poison_rate=0.3),
        SignFlip(malicious=0.3),
        DBA(malicious=0.4, poison_rate=0.3),
        SignFlip(malicious=0.4),
    ]
    # Once, not once a run.
    assert caplog.text.count("attack.name=sign-flip: poison-rate of badnets dropped") == 1


def test_what_a_plan_sets_and_a_part_does_not_know_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"attack.poison-rate: unknown key; known: name, malicio"):
        planned(tmp_path, "{attack.poison-rate: [0.1], attack.name: [sign-flip]}")
