"""Evaluates every round on held-out images."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor

from fl_defense.log import logger
from fl_defense.model.deployed import DeployedModel
from fl_defense.rounds.records import RoundOutcome
from simulations.data import ImageData
from simulations.measurement.confusion import Confusion
from simulations.measurement.evaluation import Evaluation, Measurement
from simulations.measurement.measured_round import MeasuredRound, Rates
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

    def memory_of(self, partition: int) -> Mapping[str, Tensor]:
        """Return what the attack of a partition's client remembers."""


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
        tell: Callable[[MeasuredRound], None],
        clients: Clients,
        finished: Sequence[MeasuredRound] = (),
    ) -> None:
        self.records: list[MeasuredRound] = list(finished)
        self.deployed: DeployedModel | None = None
        """The system of the last round that was observed."""
        self._scenario = scenario
        self._folder = folder
        self._tell = tell
        self._clients = clients
        self._device = pick_device(scenario.device)
        if finished and scenario.attack.learns_trigger:
            logger.warning(
                "the trigger that attackers learned before the interruption is lost: until they "
                "attack again, the one that the scenario gives is measured"
            )
        self._evaluation = Evaluation(
            data,
            scenario.backdoors,
            scenario.data.num_classes,
            self._device,
            scenario.metrics,
        )

    def __call__(self, outcome: RoundOutcome) -> None:
        """Record one round.

        Raises:
            FederationError: if all clients were asked and no reply was left to aggregate; the round
                is written all the same.
        """
        started = perf_counter()
        if outcome.released is not None:
            self.deployed = outcome.released
        malicious = self._malicious_in(outcome.record.round)
        if malicious and self._scenario.attack.learns_trigger:
            memory = self._clients.memory_of(malicious[0])
            backdoors = self._scenario.attack.measured(self._scenario.backdoors, memory)
            self._evaluation.measure_triggers_of(backdoors)
        by_stage = self._measure(outcome)
        if outcome.record.sanitized and self._device.type == "cuda":
            # What torch keeps for the next repair is lost to clients that train on the same GPU.
            torch.cuda.empty_cache()
        measured = MeasuredRound(
            record=replace(outcome.record, details=self._details(outcome)),
            asked=sorted(self._clients.trained) if outcome.record.round > 0 else [],
            malicious=malicious,
            rates={stage: each.rates for stage, each in by_stage.items()},
            backdoors=_by_backdoor(by_stage),
            evaluate_seconds=perf_counter() - started,
        )
        self.records.append(measured)
        self._folder.append(measured)
        self._folder.save_pictures(measured.round, outcome.screens)
        self._save_confusion(outcome)
        self._tell(measured)
        record = outcome.record
        # Where only some are asked, the next round asks others: these may all be hostile.
        everybody_asked = self._scenario.num_replies == self._scenario.clients.count
        nobody_left = record.num_replies == 0 and "kept_sent" not in record.details
        if record.round > 0 and nobody_left and everybody_asked:
            raise FederationError(
                f"round {record.round}: no client is left ({record.num_failures} failed, "
                f"{record.num_rejected} rejected); see {self._folder.path / 'rounds.jsonl'}"
            )

    def _save_confusion(self, outcome: RoundOutcome) -> None:
        """Of the last round alone: a matrix for each round would outgrow all else in the folder."""
        before, after = outcome.aggregate, outcome.released
        if outcome.record.round != self._scenario.rounds or before is None or after is None:
            return
        self._folder.save_confusion(
            Confusion(
                round=outcome.record.round,
                before=self._evaluation.confusion(before),
                after=self._evaluation.confusion(after),
            )
        )

    def _measure(self, outcome: RoundOutcome) -> dict[str, Measurement]:
        """Return the measurement of each stage; empty in a round that is not evaluated."""
        number, every = outcome.record.round, self._scenario.evaluate_every
        if number % every and number != self._scenario.rounds:
            return {}
        released = outcome.released
        models = {"aggregate": outcome.aggregate, "released": released, "sent": outcome.sent}
        if released is not None and released.purify is not None:
            models["unpurified"] = DeployedModel(released.model, released.pixels)
        return self._evaluation.measure_all(
            {stage: model for stage, model in models.items() if model is not None}
        )

    def _malicious_in(self, server_round: int) -> list[int]:
        if server_round == 0:
            return []
        attackers = self._scenario.attackers(server_round)
        return sorted(set(attackers) & set(self._clients.trained))

    def _details(self, outcome: RoundOutcome) -> dict[str, Any]:
        """Return the record's details with partitions in the place of Flower's nodes."""
        details = dict(outcome.record.details)
        for name, lost in (
            ("rejections", outcome.rejections),
            ("failures", outcome.failures),
            ("limited", outcome.limited),
        ):
            if lost:
                details[name] = [self._by_client(vars(each)) for each in lost]
        if "left_out" in details:
            details["left_out"] = [self._by_client(each) for each in details["left_out"]]
        if "screens" in details:
            details["screens"] = [
                {**each, "verdicts": [self._by_client(said) for said in each["verdicts"]]}
                for each in details["screens"]
            ]
        return details

    def _by_client(self, keys: Mapping[str, Any]) -> dict[str, Any]:
        others = {name: value for name, value in keys.items() if name != "node"}
        return {"client": self._clients.partition_of(keys["node"]), **others}


def _by_backdoor(by_stage: Mapping[str, Measurement]) -> list[Rates]:
    """Return the rates of each backdoor by stage."""
    each = [measurement.by_backdoor for measurement in by_stage.values()]
    return [dict(zip(by_stage, rates, strict=True)) for rates in zip(*each, strict=True)]
