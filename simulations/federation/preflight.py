"""What can be found wrong with a scenario only by trying it: its data, its model, its defense."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fl_defense.model.spec import ModelSpec, try_model
from fl_defense.sanitizers import check_sanitizer
from fl_defense.validation import one_line
from simulations.data import ImageData, load_data
from simulations.data.load import deal_out
from simulations.data.partitions import Indices
from simulations.engines.ray_engine import RayEngine
from simulations.extras import missing
from simulations.federation.server import start_model
from simulations.scenario import ConfigError
from simulations.scenario.devices import pick_device
from simulations.scenario.scenario import Scenario
from simulations.training.augmentation import transformed


def check_scenario(scenario: Scenario) -> ImageData:
    """Try what clients and server will do: a fault must show before anything is written.

    Returns:
        The scenario's images.

    Raises:
        ConfigError: if a package is missing, the device does not exist, the data cannot be had or
            dealt out, a backdoor could not be planted or measured, the model does not fit the data,
            the defense cannot repair such a model, or the initial model cannot be read.
    """
    _check_packages(scenario)
    _check_rates(scenario)
    if scenario.device == "cuda" and not pick_device("auto").type == "cuda":
        raise ConfigError(["device: cuda was asked for, but torch finds no GPU; use auto or cpu"])
    if (
        scenario.training.precision == "bfloat16"
        and pick_device(scenario.device).type == "cuda"
        and not torch.cuda.is_bf16_supported()
    ):
        raise ConfigError(["training.precision: this GPU has no bfloat16; use float32"])
    with _at("data"):
        data = load_data(scenario.data)
    with _at("partition"):
        parts = deal_out(scenario.partition, scenario.data, scenario.clients.count, scenario.seed)
    with _at("training.transforms"):
        made = [each.build() for each in scenario.training.transforms]
        transformed(data.train_images[:1].float() / 255, made, torch.Generator())
    _check_backdoors(scenario, data, parts)
    _check_defense(scenario)
    with _at("initial-model"):
        start_model(scenario)
    return data


def _check_packages(scenario: Scenario) -> None:
    """Refuse now what would be missed when the clients start, or at the end of the run."""
    needed = ["ray"] if isinstance(scenario.engine, RayEngine) else []
    tracked = (package for tracker in scenario.tracking for package in tracker.needs)
    if faults := missing([*needed, "matplotlib", *tracked]):
        raise ConfigError(faults)


def _check_rates(scenario: Scenario) -> None:
    """Refuse a schedule that gives no learning rate in some round, such as anybody's own."""
    for server_round in range(1, scenario.rounds + 1):
        rate = scenario.training.rate(server_round, scenario.rounds)
        if not 0 < rate < math.inf:
            raise ConfigError(
                [f"training.learning-rate-schedule: must give a positive rate in every round, got "
                 f"{rate} in round {server_round}; change its settings"]
            )  # fmt: skip


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Say of a fault where in the scenario it is."""
    try:
        yield
    except ValueError as error:
        raise ConfigError([f"{place}: {error}"]) from error


def _check_backdoors(scenario: Scenario, data: ImageData, parts: Sequence[Indices]) -> None:
    """Refuse a backdoor that no malicious client could plant or no test image could show."""
    malicious = [data.train_labels[parts[client]] for client in scenario.malicious_clients]
    faults = []
    for place, backdoor in scenario.places_of_backdoors().items():
        if malicious and not any(backdoor.is_source(labels).any() for labels in malicious):
            faults.append(
                f"{place}.sources: no malicious client has an image of these classes, "
                f"got {backdoor.sources}; choose others, another seed or another partition"
            )
        wanted = backdoor.wanted(data.test_labels, scenario.data.num_classes)
        if torch.equal(wanted, data.test_labels):
            faults.append(
                f"{place}: no test image is of a class that the trigger should change; "
                "use more test images or choose another target or other sources"
            )
    if faults:
        raise ConfigError(faults)


def _check_defense(scenario: Scenario) -> None:
    """Refuse a model that does not fit the images, and a defense that could not repair it."""
    spec = scenario.model_spec()
    with _at("model"):
        model = try_model(spec)
    with _at("defense"):
        check_sanitizer(scenario.defense, model, spec)
    if scenario.repair.schedule.on_suspicion is not None:
        with _at("repair.inspection"):
            scenario.repair.inspection.check(model, spec)
    _check_training(model, spec)


def _check_training(model: nn.Module, spec: ModelSpec) -> None:
    """Refuse a network that answers otherwise in training than clients can learn from."""
    try:
        with torch.random.fork_rng(devices=[]):
            logits = model.train()(torch.zeros(2, *spec.input_shape))
    except Exception as error:  # anybody's network may raise anything
        raise ConfigError([f"model: fails in training mode ({one_line(error)})"]) from error
    if not isinstance(logits, Tensor):
        raise ConfigError(
            [
                f"model: must answer with logits in training, too, got {type(logits).__name__}; "
                "switch its auxiliary outputs off"
            ]
        )
