"""What somebody else may write, one class for each axis; each notes that it was used."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from flwr.serverapp import strategy as flower
from torch import Tensor, nn

from fl_defense.inspections import Inspection
from fl_defense.model.spec import ModelSpec, Pixels
from fl_defense.sanitizers import Sanitized, Sanitizer
from fl_defense.screens import Screen, ScreenedRound, Screening, Verdict
from fl_defense.validation import require_share
from simulations.aggregators import sampling
from simulations.attack.context import AttackContext
from simulations.attack.malicious_clients import MaliciousClients
from simulations.attack.updates import Arrays, scaled
from simulations.data import ImageData, ImageSource
from simulations.engines import InProcessEngine
from simulations.metrics.base import CleanMetric
from simulations.tracking import Sink, TrackedRun, Tracker

SEEN: set[str] = set()
"""The axes whose class was used."""


@dataclass(frozen=True, kw_only=True)
class Stripes(ImageSource):
    """Images of horizontal and of vertical stripes."""

    input_shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    num_classes: ClassVar[int] = 2
    pixels: ClassVar[Pixels] = Pixels(mean=(0.5,), std=(0.5,))

    def read(self) -> ImageData:
        SEEN.add("data")
        stripes = (torch.arange(8) % 2 * 255).to(torch.uint8)
        pair = torch.stack([stripes[:, None].expand(8, 8), stripes[None, :].expand(8, 8)])
        images, labels = pair[:, None].repeat(40, 1, 1, 1), torch.arange(2).repeat(40)
        return ImageData(
            train_images=images, train_labels=labels, test_images=images, test_labels=labels
        )


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Deals images out in turn."""

    offset: int = 0
    """Who comes first."""

    def split(self, labels: Any, num_clients: int, seed: int) -> list[Any]:
        SEEN.add("partition")
        turns = (np.arange(len(labels)) + self.offset) % num_clients
        return [np.flatnonzero(turns == client) for client in range(num_clients)]


@dataclass(frozen=True, kw_only=True)
class Halved:
    """Halves the learning rate after a round."""

    after: int = 1
    """The last round with the whole rate."""

    def factor(self, server_round: int, rounds: int) -> float:
        SEEN.add("learning-rate-schedule")
        return 1.0 if server_round <= self.after else 0.5


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """A linear network on a few pooled pixels."""

    side: int = 4
    """Pooled pixels along each side."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        SEEN.add("model")
        size = input_shape[0] * self.side**2
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(self.side), nn.Flatten(), nn.Linear(size, num_classes)
        )


def linear_network(size: int, num_classes: int) -> nn.Module:
    SEEN.add("model's function")
    return nn.Sequential(nn.Flatten(), nn.Linear(size, num_classes))


@dataclass(frozen=True, kw_only=True)
class Corner:
    """One pixel."""

    brightness: float = 1.0
    """In [0, 1]."""

    def check(self, input_shape: tuple[int, int, int]) -> None:
        del input_shape

    def stamp(self, images: Tensor) -> Tensor:
        SEEN.add("trigger")
        stamped = images.clone()
        stamped[:, :, 0, 0] = self.brightness
        return stamped


@dataclass(frozen=True, kw_only=True)
class Loud(MaliciousClients):
    """Sends a longer update."""

    factor: float = 3.0
    """How much longer."""

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        SEEN.add("attack")
        return scaled(trained, context.received, context.weights, self.factor)


@dataclass(frozen=True, kw_only=True)
class Mean:
    """FedAvg by another name."""

    bonus: int = 0
    """Does nothing."""

    def check(self, num_replies: int) -> None:
        assert num_replies > 0

    def build(self, num_replies: int, num_clients: int) -> flower.Strategy:
        SEEN.add("aggregator")
        return flower.FedAvg(**sampling(num_replies, num_clients))


class Named(flower.FedAvg):
    """A strategy with an argument of its own."""

    def __init__(self, label: str, **others: Any) -> None:
        super().__init__(**others)
        SEEN.add("strategy")
        assert label == "hello"
        assert others["min_train_nodes"] == 2


def named_strategy(min_available_nodes: int) -> flower.FedAvg:
    SEEN.add("strategy's function")
    return flower.FedAvg(min_available_nodes=min_available_nodes, fraction_evaluate=0.0)


@dataclass(frozen=True, kw_only=True)
class Lets(Screen):
    """Weighs every reply alike."""

    share: float = 1.0
    """The weight."""

    def screen(
        self, shown: ScreenedRound, spec: ModelSpec, *, device: torch.device, state: Any = None
    ) -> Screening:
        SEEN.add("screens")
        verdict = Verdict(weight=self.share, reason="all alike")
        return Screening(verdicts=tuple(verdict for _ in shown.replies))


@dataclass(frozen=True, kw_only=True)
class Shrinks(Sanitizer):
    """Shrinks the weights."""

    factor: float = 0.9
    """What is left of them, in [0, 1]."""

    def __post_init__(self) -> None:
        require_share(self, "factor")

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        return {"half": cls(factor=0.5)}

    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: Any = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        SEEN.add("defense")
        model = copy.deepcopy(suspect)
        for weight in model.parameters():
            weight.data *= self.factor
        return Sanitized(model=model)


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A finding."""

    anomaly: float
    kind: str = "guess"
    suspected_class: int = 0
    is_certain: bool = False
    state: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Feels(Inspection):
    """Suspects every model alike."""

    anomaly: float = 1.0
    """How much."""

    def bar_for(self, model: nn.Module, spec: ModelSpec) -> float | None:
        return None

    def inspect(
        self, model: nn.Module, spec: ModelSpec, *, seed: int = 0, state: Any = None
    ) -> Any:
        SEEN.add("inspection")
        return Guess(anomaly=self.anomaly, state={})


@dataclass(frozen=True, kw_only=True)
class Gray:
    """Gray images."""

    level: float = 0.5
    """In [0, 1]."""

    def draw(self, num: int, shape: tuple[int, int, int]) -> Tensor:
        SEEN.add("surrogate")
        return torch.full((num, *shape), self.level)


@dataclass(frozen=True, kw_only=True)
class Counts(InProcessEngine):
    """An engine that is noticed."""

    def run(self, *arguments: Any) -> None:
        SEEN.add("engine")
        super().run(*arguments)


@dataclass(frozen=True, kw_only=True)
class ShareOfClass0(CleanMetric):
    """Share of the images that are taken for class 0."""

    label: int = 0
    """Which class."""

    name: ClassVar[str] = "share_of_class_0"
    title: ClassVar[str] = "share of class 0"
    column: ClassVar[str] = "class 0"

    def measure(self, predicted: Tensor, labels: Tensor) -> float:
        SEEN.add("metrics")
        return float((predicted == self.label).float().mean())


@dataclass(frozen=True, kw_only=True)
class Notes(Tracker):
    """A tracker that is noticed."""

    rounds: int = 3
    """How many are noted."""

    def open(self, run: TrackedRun) -> Sink:
        SEEN.add("tracking")
        return Noted()


class Noted:
    """Notes nothing."""

    def write(self, server_round: int, values: Mapping[str, float]) -> None:
        pass

    def close(self, *, finished: bool) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class AccuracyOfOurs(ShareOfClass0):
    """Takes a name that is taken."""

    name: ClassVar[str] = "accuracy"


@dataclass
class NotFrozen:
    """Not frozen."""


@dataclass(frozen=True, kw_only=True)
class Empty:
    """Has nothing."""


@dataclass(frozen=True, kw_only=True)
class Shuffled(Sanitizer):
    """Takes other arguments than its caller gives."""

    def sanitize(self, model: nn.Module) -> Sanitized:  # type: ignore[override]
        return Sanitized(model=model)
