"""Evaluates every round on held-out images, and sums up a run."""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from statistics import fmean
from time import perf_counter
from typing import Any

import torch

from fl_defense.model_spec import OnImages
from fl_defense.records import RoundOutcome, RoundRecord
from simulations.client import pick_device
from simulations.data import ImageData
from simulations.evaluation import Evaluation
from simulations.ordered_grid import OrderedGrid
from simulations.results import ResultsFolder
from simulations.scenario import Scenario

RATES = (
    "accuracy",
    "attack_success_rate",
    "robust_accuracy",
    "accuracy_before",
    "attack_success_rate_before",
    "robust_accuracy_before",
    "accuracy_unpurified",
    "attack_success_rate_unpurified",
    "robust_accuracy_unpurified",
)


class FederationError(RuntimeError):
    """The federation cannot go on: no client is left, or no round was aggregated."""


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
        clients: OrderedGrid,
        finished: Sequence[RoundRecord] = (),
    ) -> None:
        self.records: list[RoundRecord] = list(finished)
        self.deployed: OnImages | None = None
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
                model = OnImages(outcome.after.model, outcome.after.pixels)
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
        if record.round > 0 and record.num_replies == 0:
            raise FederationError(
                f"round {record.round}: no client is left ({record.num_failures} failed, "
                f"{record.num_rejected} rejected); see {self._folder.path / 'rounds.jsonl'}"
            )

    def _malicious_in(self, server_round: int) -> list[int]:
        if server_round == 0 or not self._scenario.attack.is_active(server_round):
            return []
        return sorted(set(self._scenario.malicious_clients) & set(self._clients.trained))

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


def summarize(
    scenario: Scenario, records: Sequence[RoundRecord], device: torch.device, seconds: float
) -> dict[str, Any]:
    """Return what summary.json holds.

    Args:
        scenario: the experiment.
        records: all rounds, round 0 first.
        device: where models were trained and repaired.
        seconds: wall-clock time of the whole run.
    """
    trained = [record for record in records if record.round > 0]
    attacked = _since_attack(trained)
    success = [
        rates["attack_success_rate"] for record in attacked for rates in _by_backdoor(record)
    ]
    return {
        "scenario": scenario.name,
        "seed": scenario.seed,
        "rounds": len(trained),
        "malicious": list(scenario.malicious_clients),
        "last_three_rounds": _means(map(asdict, trained[-3:]), RATES),
        "since_attack": _means(map(asdict, attacked), RATES),
        "backdoors": _means_by_backdoor(scenario, trained[-3:]),
        "worst_attack_success_rate": max(success, default=None),
        "num_repaired": sum(record.accepted for record in trained),
        "num_refused": sum("refused" in record.details for record in trained),
        "num_failed_repairs": sum("failure" in record.details for record in trained),
        "num_rejected": sum(record.num_rejected for record in trained),
        "num_failures": sum(record.num_failures for record in trained),
        "seconds": {
            "training": sum(record.train_seconds for record in trained),
            "repair": sum(record.sanitize_seconds for record in trained),
            "evaluation": sum(record.evaluate_seconds for record in records),
            "total": seconds,
        },
        "device": _describe(device),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("fl-defense", "flwr", "torch", "numpy")},
        },
    }


def _since_attack(trained: Sequence[RoundRecord]) -> Sequence[RoundRecord]:
    """Rounds from the first attacked one on; all of them if none was attacked."""
    first = next((record.round for record in trained if record.malicious), 1)
    return [record for record in trained if record.round >= first]


def _by_backdoor(record: RoundRecord) -> list[dict[str, float]]:
    return list(record.details.get("backdoors", ()))


def _means_by_backdoor(scenario: Scenario, records: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    measured = [rates for record in records if (rates := _by_backdoor(record))]
    return [
        {"place": place, **_means(rates, rates[0])}
        for place, *rates in zip(scenario.places_of_backdoors(), *measured, strict=True)
        if rates
    ]


def _means(rounds: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, float | None]:
    given = list(rounds)
    means: dict[str, float | None] = {}
    for name in names:
        rates = [rate for rates in given if (rate := rates[name]) is not None]
        means[name] = fmean(rates) if rates else None
    return means


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"
