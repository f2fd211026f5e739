"""A scenario: one experiment as one frozen value, read from YAML with every fault at once."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from fl_defense.buffers import Buffers
from fl_defense.inspections import INSPECTIONS, Inspection, TriggerSearch
from fl_defense.model_spec import ModelSpec
from fl_defense.pictures import PictureFolder
from fl_defense.ranges import require_at_least
from fl_defense.repairer import OnFailure
from fl_defense.replies import ReplyCheck
from fl_defense.sanitizers import SANITIZERS, NoDefense, Pipeline, Sanitizer
from fl_defense.schedule import Schedule
from fl_defense.strategy import Broadcast
from fl_defense.surrogates import Scenes
from simulations.aggregators import AGGREGATORS, Aggregator, FedAvg
from simulations.attacks import ATTACKS, Attack, NoAttack
from simulations.backdoor import Backdoor
from simulations.choices import CONFIG, OneOrSeveral, choice, part
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
from simulations.faults import ConfigError as ConfigError
from simulations.faults import apply_override, faults_of
from simulations.models import MODELS, Architecture, Factory, SmallCNN
from simulations.triggers import TRIGGERS


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


INSPECTION = choice(INSPECTIONS)
"""How an inspection is read: a name with its fields."""


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


@dataclass(frozen=True, kw_only=True)
class _ClientCores:
    """What all engines are told."""

    cpus_per_client: int = 1
    """CPU cores, and torch threads, of one client; the same number gives the same result on every
    engine."""

    def __post_init__(self) -> None:
        require_at_least(self, cpus_per_client=1)


@dataclass(frozen=True, kw_only=True)
class RayEngine(_ClientCores):
    """Flower's simulation: clients run in parallel in Ray's worker processes."""

    gpus_per_client: float | None = None
    """Share of a GPU for one client, if clients train on one; null: an eighth."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus_per_client is not None and self.gpus_per_client < 0:
            raise ValueError(f"gpus_per_client must be at least 0, got {self.gpus_per_client}")


@dataclass(frozen=True, kw_only=True)
class InProcessEngine(_ClientCores):
    """One process, one client after the other: no start-up cost, easy to debug."""


Engine = RayEngine | InProcessEngine

ENGINES: dict[str, type[RayEngine] | type[InProcessEngine]] = {
    "ray": RayEngine,
    "in-process": InProcessEngine,
}
"""Engines by the name that a scenario gives."""


SURROGATES: dict[str, Any] = {"scenes": Scenes, "folder": PictureFolder, **DATASETS}
"""Where a defense may take unlabelled images from, by the name that a scenario gives."""

DEFENSE = choice(SANITIZERS, in_order=Pipeline, surrogate=choice(SURROGATES))
"""How a defense is read: a name with its fields, or a list of them."""

TABLES: dict[str, Mapping[str, Any]] = {
    "data": DATASETS,
    "partition": PARTITIONS,
    "model": MODELS,
    "trigger": TRIGGERS,
    "attack": ATTACKS,
    "aggregator": AGGREGATORS,
    "defense": SANITIZERS,
    "inspection": INSPECTIONS,
    "surrogate": SURROGATES,
    "engine": ENGINES,
}
"""All tables, by the field that chooses from them."""


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


def load_scenario(path: Path, overrides: Iterable[str] = ()) -> Scenario:
    """Read a scenario from YAML and apply `--set` overrides.

    Args:
        path: the file.
        overrides: "dotted.field=value"; the value is YAML. Giving another `name` to a part drops
            the fields of the one it replaces.

    Raises:
        ConfigError: with all faults of the file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError([f"{path}: cannot be read ({reason}); name a scenario file"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not valid YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: must be a mapping, got {type(content).__name__}"])
    for override in overrides:
        apply_override(content, override)
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        faults = [*faults_of(error, Scenario, TABLES), *_misfits_of_the_rest(content, error)]
        raise ConfigError([f"{path}: {fault}" for fault in faults]) from error


def scenario_schema() -> dict[str, Any]:
    """Return the JSON Schema of a scenario file."""
    schema = Scenario.model_json_schema(by_alias=True, mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _misfits_of_the_rest(content: Mapping[str, Any], error: ValidationError) -> list[str]:
    """Return what is wrong between the parts that are right by themselves.

    Pydantic compares parts only when each is right. The wrong ones are taken out and compared as
    their defaults; where data or clients are wrong nothing can be compared with them.
    """
    wrong = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
    if not wrong or wrong & {"data", "clients"}:
        return []
    try:
        Scenario.model_validate({key: part for key, part in content.items() if key not in wrong})
    except ValidationError as rest:
        causes = [fault.get("ctx", {}).get("error") for fault in rest.errors()]
        misfits = [
            line for cause in causes if isinstance(cause, ConfigError) for line in cause.faults
        ]
        return [line for line in misfits if line.split(".")[0].split(":")[0] not in wrong]
    return []
