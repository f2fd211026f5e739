"""A worker process of Ray that is killed takes its client with it, and nobody else's."""

from pathlib import Path

import pytest

from simulations.data import Digits
from simulations.engines import RayEngine
from simulations.federation.run import run_scenario
from simulations.models.small_cnn import SmallCNN
from simulations.scenario.scenario import Clients, Repair, Scenario
from tests.simulations.engines.dies import Dies


@pytest.mark.wire
def test_its_client_fails_and_the_next_round_has_all_others(tmp_path: Path) -> None:
    scenario = Scenario(
        name="small",
        rounds=3,
        data=Digits(max_train=40, max_test=20),
        model=SmallCNN(width=2),
        clients=Clients(count=3, timeout_seconds=120),
        attack=Dies(malicious=(1,)),
        repair=Repair(verify=None),
        engine=RayEngine(),
    )
    result = run_scenario(scenario, tmp_path / "out")
    for measured in result.records[1:]:
        record = measured.record
        assert (record.num_replies, record.num_failures) == (2, 1)
        assert [lost["client"] for lost in record.details["failures"]] == [1]
