"""A round costs what its clients cost, however many others there are."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulations.attack.badnets import BadNets
from simulations.data import Digits
from simulations.data.partitions import Indices
from simulations.engines import InProcessEngine
from simulations.federation.run import run_scenario
from simulations.measurement.measured_round import MeasuredRound
from simulations.models.small_cnn import SmallCNN
from simulations.scenario.scenario import Clients, Repair, Scenario
from simulations.scenario.training import Training


@dataclass(frozen=True, kw_only=True)
class AllTheSame:
    """Every client has the same images, so that all cost the same."""

    def split(self, labels: Indices, num_clients: int, seed: int) -> list[Indices]:
        return [np.arange(8)] * num_clients


def calls_of_a_round(num_clients: int, folder: Path) -> int:
    """Calls of functions, Python's and C's, in the third round; the first two fill caches."""
    scenario = Scenario(
        name="many",
        rounds=4,
        evaluate_every=4,
        data=Digits(max_train=8, max_test=20),
        partition=AllTheSame(),
        model=SmallCNN(width=2),
        clients=Clients(count=num_clients, per_round=3),
        training=Training(steps=1, epochs=None, batch_size=8),
        attack=BadNets(malicious=0.5, attackers_per_round=1, attackers_taken="at-random"),
        repair=Repair(verify=None),
        engine=InProcessEngine(),
    )
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def tell(measured: MeasuredRound) -> None:
        if measured.round in (2, 3):
            sys.setprofile(count if measured.round == 2 else None)

    run_scenario(scenario, folder, tell)
    return calls


def test_a_round_does_nothing_for_clients_that_are_not_asked(tmp_path: Path) -> None:
    few, many = (calls_of_a_round(n, tmp_path / str(n)) for n in (20, 3000))
    # Whether one of the three attacks is drawn anew; one call for each idle client would show.
    assert abs(many - few) < 1500
