"""A scenario: one experiment as one frozen value."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from fl_defense.flower.batchnorm_policy import Buffers
from fl_defense.flower.broadcast import Broadcast
from fl_defense.flower.replies import ReplyCheck
from fl_defense.inspections import Inspection, TriggerSearch
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.repairer import OnFailure
from fl_defense.rounds.schedule import Schedule
from fl_defense.sanitizers import NoDefense, Sanitizer
from fl_defense.screens import Screen
from simulations.aggregators import Aggregator, FedAvg
from simulations.attack.backdoor import Backdoor
from simulations.attack.base import Attack
from simulations.attack.none import NoAttack
from simulations.data import IID, Digits, ImageSource, Partition
from simulations.engines import Engine, ProcessesEngine
from simulations.metrics import Metric
from simulations.models.base import Architecture
from simulations.models.small_cnn import SmallCNN
from simulations.scenario.cross_checks import misfits
from simulations.scenario.errors import Fault, FaultsError, faults_of
from simulations.scenario.fields import kebab
from simulations.scenario.parts import Part
from simulations.scenario.readers import CONFIG
from simulations.scenario.tables import (
    AGGREGATOR,
    ATTACK,
    BACKDOORS,
    DATA,
    DEFENSE,
    ENGINE,
    INSPECTION,
    MEASURED,
    MODEL,
    PARTITION,
    SCREENING,
    TRACKED,
    VERIFICATION,
)
from simulations.scenario.training import Training
from simulations.tracking import Tracker


class Clients(BaseModel):
    """Who takes part.

    Example:
        >>> Clients(count=100, per_round=10).per_round
        10
    """

    model_config = CONFIG
    count: int = Field(default=10, ge=1)
    """Number of clients in the federation."""
    per_round: int | None = Field(default=None, ge=1)
    """Clients asked in each round, drawn from the seed; null: all."""
    timeout_seconds: float = Field(default=3600, gt=0)
    """How long the server waits for the replies of a round."""


class Repair(BaseModel):
    """How the server applies the defense.

    Example:
        >>> Repair(min_agreement=0.6, verify=None).broadcast
        'auto'
    """

    model_config = CONFIG
    schedule: Annotated[Schedule, Part(Schedule)] = Schedule()
    """Which rounds are repaired."""
    inspection: Annotated[Inspection, INSPECTION] = TriggerSearch()
    """How the aggregate is inspected where the schedule asks for it."""
    verify: Annotated[Inspection | None, VERIFICATION] = TriggerSearch()
    """How each repair is verified: inspected before and after, which takes twice its time; null:
    nothing is verified."""
    inspect_at: str | None = None
    """Submodule of the model after which defenses cut it; null: the one that `list` shows."""
    min_agreement: float | None = Field(default=None, ge=0, le=1)
    """Do-no-harm gate: least agreement of aggregate and repaired model on surrogate images; null:
    0.5, and 0.8 for a network without BatchNorm statistics."""
    on_failure: OnFailure = "keep"
    """If the defense fails: keep the aggregate, go back to the previous model, or stop."""
    broadcast: Broadcast = "auto"
    """What clients train on; with aggregate, only the released model is the repaired one."""
    reference_age: int | None = Field(default=None, ge=1)
    """Repair against the model that clients were sent so many rounds ago; null: without one."""
    buffers: Buffers = "auto"
    """Who averages BatchNorm's statistics: the defense's wrapper (mean), the aggregator (inner), or
    the wrapper for server optimisers, which take them for gradients, else the aggregator (auto)."""
    reply_check: Annotated[ReplyCheck, Part(ReplyCheck)] = ReplyCheck()
    """What a reply must satisfy to be aggregated."""


class Scenario(BaseModel):
    """One experiment: data, clients, attack, defense, and how to run it.

    Example:
        >>> scenario = Scenario(name="mine", attack={"name": "badnets", "malicious": [0, 3]})
        >>> scenario.malicious_clients, scenario.defense
        ((0, 3), NoDefense())
    """

    model_config = CONFIG
    name: str = Field(min_length=1, pattern=r"^\w[\w.-]*$")
    """Names the results folder."""
    seed: int = Field(default=0, ge=0)
    """Decides everything that is drawn: weights, partition, attackers, batches, the defense."""
    rounds: int = Field(default=10, ge=1)
    """Rounds of training and aggregation."""
    evaluate_every: int = Field(default=1, ge=1)
    """Models are measured in every so many rounds, and in the last."""
    data: Annotated[ImageSource, DATA] = Digits()
    """The images."""
    partition: Annotated[Partition, PARTITION] = IID()
    """How training images are dealt out to clients."""
    model: Annotated[Architecture, MODEL] = SmallCNN()
    """The network that is trained."""
    initial_model: str | None = None
    """Weights with which the federation starts, a .safetensors file, such as an earlier run's
    `model.safetensors`: attacks on a federation that has converged; null: drawn from the seed."""
    clients: Clients = Clients()
    """Who takes part."""
    training: Training = Training()
    """What a client does in a round."""
    aggregator: Annotated[Aggregator, AGGREGATOR] = FedAvg()
    """The strategy that the defense wraps."""
    backdoors: Annotated[tuple[Backdoor, ...], BACKDOORS] = Field(
        default=(Backdoor(),), alias="backdoor"
    )
    """A trigger and its target, or a list of such: measured in every run, planted by the attack."""
    attack: Annotated[Attack, ATTACK] = NoAttack()
    """What malicious clients do."""
    screens: Annotated[tuple[Screen, ...], SCREENING] = ()
    """Filters of the clients' replies, or a list of them that run in order; none by default."""
    defense: Annotated[Sanitizer, DEFENSE] = NoDefense()
    """The sanitizer that repairs the aggregate, or a list of them that run in order."""
    repair: Repair = Repair()
    """How the server applies the defense."""
    metrics: Annotated[tuple[Metric, ...], MEASURED] = ()
    """What is measured beside accuracy, attack success rate, robust and non-source accuracy, which
    every run measures: a metric, or a list of them; none by default."""
    tracking: Annotated[tuple[Tracker, ...], TRACKED] = ()
    """Where else each round is written, such as `tensorboard`: a tracker, or a list of them; none
    by default."""
    engine: Annotated[Engine, ENGINE] = ProcessesEngine()
    """What runs the clients."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where clients train and the server repairs; auto: a GPU if there is one."""

    @property
    def num_replies(self) -> int:
        """Clients asked in each round."""
        return self.clients.per_round or self.clients.count

    @property
    def sends_repaired_models(self) -> bool:
        """Whether clients train on repaired models."""
        broadcast = self.repair.broadcast
        return broadcast == "repaired" or (broadcast == "auto" and len(self.screens) > 0)

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

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Read each part, then compare those that are right: all faults come at once."""
        faults: list[Fault] = []
        try:
            scenario = handler(given)
        except ValidationError as error:
            faults += faults_of(error, cls)
            wrong = {fault.place.split(".")[0] for fault in faults}
            if not isinstance(given, Mapping) or "" in wrong:
                raise FaultsError(faults) from error
            # Defaults stand in for the wrong parts, which no check looks at that is made.
            right = {key: part for key, part in given.items() if _key(cls, str(key)) not in wrong}
            scenario = handler({"name": "unnamed"} | right)
            faults += misfits(scenario, wrong)
        else:
            faults += misfits(scenario)
        if faults:
            raise FaultsError(faults)
        return scenario


def _key(model: type[BaseModel], name: str) -> str:
    """Return how YAML spells a field that Python may have spelled."""
    field = model.model_fields.get(name)
    return kebab((field and field.alias) or name)
