"""What must fit between the parts of a scenario that are right by themselves."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl_defense.sanitizers import Pipeline
from simulations.metrics import STANDARD, BackdoorMetric, CleanMetric
from simulations.scenario.errors import Fault
from simulations.tracking import TRACKERS

if TYPE_CHECKING:
    from simulations.scenario.scenario import Scenario


@dataclass(frozen=True)
class CrossCheck:
    """One comparison."""

    needs: frozenset[str]
    """The parts that it compares, by their keys in the file."""
    find: Callable[["Scenario"], Iterator[Fault]]
    """Yields what does not fit."""


def misfits(scenario: "Scenario", wrong: Collection[str] = ()) -> Iterator[Fault]:
    """Yield what does not fit, by all checks that need none of the parts that are wrong."""
    for check in CROSS_CHECKS:
        if check.needs.isdisjoint(wrong):
            yield from check.find(scenario)


def _replies(scenario: "Scenario") -> Iterator[Fault]:
    count = scenario.clients.count
    if scenario.num_replies > count:
        message = f"must be at most the count of {count}, got {scenario.num_replies}; lower it"
        yield Fault("clients.per-round", message)


def _surrogates(scenario: "Scenario") -> Iterator[Fault]:
    message = "is the clients' own data; name another source of images"
    defense = scenario.defense
    for step in defense.steps if isinstance(defense, Pipeline) else (defense,):
        if scenario.data.shares_images_with(getattr(step, "surrogate", None)):
            yield Fault("defense.surrogate", message)
    for screen in scenario.screens:
        if scenario.data.shares_images_with(getattr(screen, "surrogate", None)):
            yield Fault("screens.surrogate", message)


def _backdoors(scenario: "Scenario") -> Iterator[Fault]:
    try:
        shape, num_classes = scenario.data.input_shape, scenario.data.num_classes
    except ValueError as error:
        yield Fault("data", str(error))
        return
    for place, backdoor in scenario.places_of_backdoors().items():
        for name, message in backdoor.misfits(shape, num_classes):
            yield Fault(name, message).under(place)


def _attackers(scenario: "Scenario") -> Iterator[Fault]:
    try:
        scenario.attack.malicious_clients(scenario.clients.count, scenario.seed)
    except ValueError as error:
        yield Fault("attack.malicious", str(error))


def _planted(scenario: "Scenario") -> Iterator[Fault]:
    for message in scenario.attack.misfits(scenario.backdoors):
        yield Fault("attack", message)


def _cut(scenario: "Scenario") -> Iterator[Fault]:
    if scenario.repair.inspect_at is None:
        return
    try:
        spec = scenario.model_spec()
        model = spec.build()
    except ValueError:
        return  # What is wrong with the model is said when the scenario is tried.
    try:
        spec.split(model)
    except ValueError as error:
        yield Fault("repair.inspect-at", str(error))


def _aggregation(scenario: "Scenario") -> Iterator[Fault]:
    try:
        scenario.aggregator.check(scenario.num_replies)
    except ValueError as error:
        yield Fault("aggregator", str(error))


def _screened(scenario: "Scenario") -> Iterator[Fault]:
    num = scenario.num_replies
    for screen in scenario.screens:
        least = getattr(screen, "least_replies", 1)
        if num < least:
            yield Fault(
                "screens.least-replies",
                f"{type(screen).__name__} compares at least {least} replies, and a round has "
                f"{num}; ask more clients or take another screen",
            )


def _metrics(scenario: "Scenario") -> Iterator[Fault]:
    known = {metric.name: metric for metric in STANDARD}
    for metric in scenario.metrics:
        kind = type(metric).__name__
        if not isinstance(metric, CleanMetric | BackdoorMetric):
            yield Fault("metrics", f"{kind} must derive from CleanMetric or BackdoorMetric")
        if known.setdefault(metric.name, metric) != metric:
            yield Fault("metrics", f"{kind} is called {metric.name!r} like another; rename it")


def _tracking(scenario: "Scenario") -> Iterator[Fault]:
    for place, tracker in enumerate(scenario.tracking):
        if tracker in scenario.tracking[:place]:
            kind = next((name for name, cls in TRACKERS.items() if type(tracker) is cls), "it")
            yield Fault("tracking", f"{kind} is named twice with the same fields; name it once")


CROSS_CHECKS = (
    CrossCheck(frozenset({"clients"}), _replies),
    CrossCheck(frozenset({"clients", "screens"}), _screened),
    CrossCheck(frozenset({"defense", "screens", "data"}), _surrogates),
    CrossCheck(frozenset({"data", "backdoor"}), _backdoors),
    CrossCheck(frozenset({"attack", "backdoor"}), _planted),
    # How many are malicious does not depend on the seed; who they are does.
    CrossCheck(frozenset({"attack", "clients"}), _attackers),
    CrossCheck(frozenset({"repair", "model", "data"}), _cut),
    CrossCheck(frozenset({"aggregator", "clients"}), _aggregation),
    CrossCheck(frozenset({"metrics"}), _metrics),
    CrossCheck(frozenset({"tracking"}), _tracking),
)
"""All comparisons, in the order in which their faults are said."""
