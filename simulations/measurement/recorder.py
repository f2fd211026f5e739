"""Evaluates every round on held-out images."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, Protocol

import torch

from fl_defense.model.deployed import DeployedModel
from fl_defense.rounds.records import RoundOutcome, RoundRecord
from simulations.data import ImageData
from simulations.measurement.evaluation import Evaluation
from simulations.measurement.results_folder import ResultsFolder
from simulations.scenario.devices import pick_device
from simulations.scenario.scenario import Scenario


class FederationError(RuntimeError):
    """The federation cannot go on: no client is left, or no round was aggregated."""


class Clients(Protocol):
    """Who is who among Flower's nodes."""

    @property
    def trained(self) -> Collection[int]:
        """Partitions that were asked in the last round of training."""

    def partition_of(self, node: int) -> int | None:
        """Return the partition of a node, or None if it told none."""


class Recorder:
    """The observer of a simulated federation: measures, writes, tells.

    Args:
        scenario: the experiment.
        data: its images; only the held-out ones are used.
        folder: where to write.
        tell: called with every finished round.
        clients: knows the partition of a Flower node, and who was asked in a round.
        finished: rounds of the same run before it was interrupted.
    """

    def __init__(
        self,
        scenario: Scenario,
        data: ImageData,
        folder: ResultsFolder,
        tell: Callable[[RoundRecord], None],
        clients: Clients,
        finished: Sequence[RoundRecord] = (),
    ) -> None:
        self.records: list[RoundRecord] = list(finished)
        self.deployed: DeployedModel | None = None
        """The system of the last round that was observed."""
        self._scenario = scenario
        self._folder = folder
        self._tell = tell
        self._clients = clients
        self._device = pick_device(scenario.device)
        self._evaluation = Evaluation(
            data, scenario.backdoors, scenario.data.num_classes, self._device
        )

    def __call__(self, outcome: RoundOutcome) -> None:
        """Record one round.

        Raises:
            FederationError: if no reply was left to aggregate; the round is written all the same.
        """
        started = perf_counter()
        rates: dict[str, Any] = {}
        details = self._details(outcome)
        if outcome.before is not None and outcome.after is not None:
            self.deployed = outcome.after
            before = self._evaluation.measure(outcome.before)
            unchanged = outcome.after.model is outcome.before.model and outcome.after.purify is None
            after = before if unchanged else self._evaluation.measure(outcome.after)
            rates = _side_by_side(after.overall, before.overall)
            if outcome.after.purify is not None:
                model = DeployedModel(outcome.after.model, outcome.after.pixels)
                unpurified = self._evaluation.measure(model).overall
                rates |= {f"{name}_unpurified": rate for name, rate in unpurified.items()}
            pairs = zip(after.by_backdoor, before.by_backdoor, strict=True)
            details["backdoors"] = [_side_by_side(*pair) for pair in pairs]
        if outcome.record.sanitized and self._device.type == "cuda":
            # What torch keeps for the next repair is lost to clients that train on the same GPU.
            torch.cuda.empty_cache()
        record = replace(
            outcome.record,
            malicious=self._malicious_in(outcome.record.round),
            details=details,
            evaluate_seconds=perf_counter() - started,
            **rates,
        )
        self.records.append(record)
        self._folder.append(record)
        self._tell(record)
        if record.round > 0 and record.num_replies == 0 and "kept_sent" not in record.details:
            raise FederationError(
                f"round {record.round}: no client is left ({record.num_failures} failed, "
                f"{record.num_rejected} rejected); see {self._folder.path / 'rounds.jsonl'}"
            )

    def _malicious_in(self, server_round: int) -> list[int]:
        if server_round == 0:
            return []
        attackers = self._scenario.attackers(server_round)
        return sorted(set(attackers) & set(self._clients.trained))

    def _details(self, outcome: RoundOutcome) -> dict[str, Any]:
        details = dict(outcome.record.details)
        for name, lost in (("rejections", outcome.rejections), ("failures", outcome.failures)):
            if lost:
                details[name] = [
                    {"client": self._clients.partition_of(each.node), "reason": each.reason}
                    for each in lost
                ]
        return details


def _side_by_side(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {**after, **{f"{name}_before": rate for name, rate in before.items()}}
