"""A scenario: one experiment as one frozen value."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, Field, model_validator

from fl_defense.flower.batchnorm_policy import Buffers
from fl_defense.flower.replies import ReplyCheck
from fl_defense.flower.strategy import Broadcast
from fl_defense.inspections import Inspection, TriggerSearch
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.repairer import OnFailure
from fl_defense.rounds.schedule import Schedule
from fl_defense.sanitizers import NoDefense, Pipeline, Sanitizer
from fl_defense.screens import SCREENS, Screen
from fl_defense.surrogates.picture_folder import PictureFolder
from simulations.aggregators import AGGREGATORS, Aggregator, FedAvg
from simulations.attack import ATTACKS
from simulations.attack.backdoor import Backdoor
from simulations.attack.base import Attack
from simulations.attack.none import NoAttack
from simulations.attack.triggers import TRIGGERS
from simulations.data import (
    DATASETS,
    GTSRB,
    IID,
    PARTITIONS,
    Digits,
    ImageFolder,
    ImageSource,
    Partition,
)
from simulations.models import MODELS
from simulations.models.base import Architecture
from simulations.models.small_cnn import SmallCNN
from simulations.scenario.engines import ENGINES, Engine, RayEngine
from simulations.scenario.errors import ConfigError
from simulations.scenario.imports import Factory
from simulations.scenario.named_parts import CONFIG, OneOrSeveral, choice, part
from simulations.scenario.tables import DEFENSE, INSPECTION


class Clients(BaseModel):
    """Who takes part."""

    model_config = CONFIG
    count: int = Field(default=10, ge=1)
    """Number of clients in the federation."""
    per_round: int | None = Field(default=None, ge=1)
    """Clients asked in each round, drawn from the seed; null: all."""
    timeout_seconds: float = Field(default=3600, gt=0)
    """How long the server waits for the replies of a round."""


class Training(BaseModel):
    """What an honest client does with the model in a round."""

    model_config = CONFIG
    epochs: int = Field(default=1, ge=1)
    """Passes over the client's images."""
    batch_size: int = Field(default=32, ge=2)
    """Images per step."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Of SGD."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD, afresh in each round."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Of SGD."""
    augmentation: Literal["none", "crop", "crop-flip"] = "none"
    """Random shift by up to 4 pixels, and horizontal mirroring, after any trigger was stamped."""


class Repair(BaseModel):
    """How the server applies the defense."""

    model_config = CONFIG
    schedule: Annotated[Schedule, part(Schedule)] = Schedule()
    """Which rounds are repaired."""
    inspection: Annotated[Inspection, INSPECTION] = TriggerSearch()
    """How the aggregate is inspected where the schedule asks for it."""
    inspect_at: str | None = None
    """Submodule of the model after which defenses cut it; null: the one that `list` shows."""
    min_agreement: float = Field(default=0.5, ge=0, le=1)
    """Do-no-harm gate: least agreement of aggregate and repaired model on surrogate images."""
    on_failure: OnFailure = "keep"
    """If the defense fails: keep the aggregate, go back to the previous model, or stop."""
    broadcast: Broadcast = "repaired"
    """What clients train on; with aggregate, only the released model is the repaired one."""
    buffers: Buffers = "auto"
    """Who averages BatchNorm's statistics: the defense's wrapper (mean), the aggregator (inner), or
    the wrapper for server optimisers, which take them for gradients, else the aggregator (auto)."""
    reply_check: Annotated[ReplyCheck, part(ReplyCheck)] = ReplyCheck()
    """What a reply must satisfy to be aggregated."""


class Scenario(BaseModel):
    """One experiment: data, clients, attack, defense, and how to run it."""

    model_config = CONFIG
    name: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    """Names the results folder."""
    seed: int = Field(default=0, ge=0)
    """Decides everything that is drawn: weights, partition, attackers, batches, the defense."""
    rounds: int = Field(default=10, ge=1)
    """Rounds of training and aggregation."""
    data: Annotated[ImageSource, choice(DATASETS)] = Digits()
    """The images."""
    partition: Annotated[Partition, choice(PARTITIONS)] = IID()
    """How training images are dealt out to clients."""
    model: Annotated[Architecture, choice(MODELS, factory=Factory)] = SmallCNN()
    """The network that is trained."""
    clients: Clients = Clients()
    """Who takes part."""
    training: Training = Training()
    """What a client does in a round."""
    aggregator: Annotated[Aggregator, choice(AGGREGATORS)] = FedAvg()
    """The strategy that the defense wraps."""
    backdoors: Annotated[
        tuple[Backdoor, ...], OneOrSeveral(part(Backdoor, trigger=choice(TRIGGERS)))
    ] = Field(default=(Backdoor(),), alias="backdoor")
    """A trigger and its target, or a list of such: measured in every run, planted by the attack."""
    attack: Annotated[Attack, choice(ATTACKS)] = NoAttack()
    """What malicious clients do."""
    screens: Annotated[tuple[Screen, ...], OneOrSeveral(choice(SCREENS), or_none=True)] = ()
    """Filters of the clients' replies, or a list of them that run in order; none by default."""
    defense: Annotated[Sanitizer, DEFENSE] = NoDefense()
    """The sanitizer that repairs the aggregate, or a list of them that run in order."""
    repair: Repair = Repair()
    """How the server applies the defense."""
    engine: Annotated[Engine, choice(ENGINES)] = RayEngine()
    """What runs the clients."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where clients train and the server repairs; auto: a GPU if there is one."""

    @property
    def num_replies(self) -> int:
        """Clients asked in each round."""
        return self.clients.per_round or self.clients.count

    @property
    def malicious_clients(self) -> tuple[int, ...]:
        """Partition ids of the malicious clients."""
        return self.attack.malicious_clients(self.clients.count, self.seed)

    def attackers(self, server_round: int) -> tuple[int, ...]:
        """Partition ids of the malicious clients that attack in a round."""
        return self.attack.attackers(server_round, self.clients.count, self.seed)

    def places_of_backdoors(self) -> dict[str, Backdoor]:
        """Return each backdoor by the place where it stands in the file."""
        if len(self.backdoors) == 1:
            return {"backdoor": self.backdoors[0]}
        return {f"backdoor.{index}": backdoor for index, backdoor in enumerate(self.backdoors)}

    def model_spec(self) -> ModelSpec:
        """Return the structure of the model, which is all that the defense is told."""
        shape, num_classes, architecture = (
            self.data.input_shape,
            self.data.num_classes,
            self.model,
        )
        return ModelSpec(
            build=lambda: architecture.build(shape, num_classes),
            input_shape=shape,
            num_classes=num_classes,
            pixels=self.data.pixels,
            inspect_at=self.repair.inspect_at,
        )

    def to_yaml(self) -> str:
        """Write the scenario with every field spelled out; reading it gives an equal scenario."""
        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True), sort_keys=False)

    def _check_cut(self) -> None:
        if self.repair.inspect_at is not None:
            spec = self.model_spec()
            try:
                model = spec.build()
            except ValueError:
                return  # What is wrong with the model is told when the scenario is tried.
            spec.split(model)

    @model_validator(mode="after")
    def _parts_fit(self) -> "Scenario":
        faults = list(self._misfits())
        if faults:
            raise ConfigError(faults)
        return self

    def _misfits(self) -> Iterator[str]:
        """Yield what is wrong between parts that are right by themselves."""
        if self.num_replies > self.clients.count:
            yield (
                f"clients.per-round: must be at most the count of {self.clients.count}, "
                f"got {self.num_replies}; lower it"
            )
        steps = self.defense.steps if isinstance(self.defense, Pipeline) else (self.defense,)
        for step in steps:
            if _is_same_source(getattr(step, "surrogate", None), self.data):
                yield "defense.surrogate: is the clients' own data; name another source of images"
        try:
            shape, num_classes = self.data.input_shape, self.data.num_classes
        except ValueError as error:
            yield f"data: {error}"
        else:
            for place, backdoor in self.places_of_backdoors().items():
                for fault in backdoor.misfits(shape, num_classes):
                    yield f"{place}.{fault}"
        for fault in self.attack.misfits(self.backdoors):
            yield f"attack: {fault}"
        for where, check in (
            ("attack.malicious", lambda: self.malicious_clients),
            ("repair.inspect-at", self._check_cut),
            ("aggregator", lambda: self.aggregator.check(self.num_replies)),
        ):
            try:
                check()
            except ValueError as error:
                yield f"{where}: {error}"


def _is_same_source(surrogate: object, data: ImageSource) -> bool:
    """Tell whether a defense would be given images of the data set that the clients share."""
    if type(surrogate) is type(data) and not isinstance(data, ImageFolder):
        return True  # a data set with a name is the same one wherever it lies
    pictures, own = _folder_of(surrogate), _folder_of(data)
    if pictures is None or own is None:
        return False
    return pictures.is_relative_to(own) or own.is_relative_to(pictures)


def _folder_of(source: object) -> Path | None:
    """Return the folder that a source takes its pictures from, or None if it reads no pictures."""
    match source:
        case PictureFolder(root=root) | ImageFolder(root=root):
            return Path(root).resolve()
        case GTSRB(root=root):
            return (Path(root) / "gtsrb").resolve()
    return None
