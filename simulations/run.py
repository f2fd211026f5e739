"""Runs a scenario from beginning to end."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from fl_defense.records import RoundRecord
from simulations.client import build_client_app, deal_out, pick_device
from simulations.data import ImageData, load_data
from simulations.data.partition import Indices
from simulations.engines import OrderedGrid, run_federation
from simulations.recorder import Recorder, ResultsFolder, summarize
from simulations.scenario import ConfigError, Scenario
from simulations.server import build_server_app


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a finished run leaves: its folder, rounds and summary."""

    folder: Path
    records: list[RoundRecord]
    summary: dict[str, Any]


def run_scenario(
    scenario: Scenario, out: Path, tell: Callable[[RoundRecord], None] | None = None
) -> RunResult:
    """Run a federation and write its results folder.

    Args:
        scenario: the experiment.
        out: folder to write; must not hold a run yet.
        tell: called with every finished round.

    Raises:
        ConfigError: if the data cannot be had or dealt out, or `out` cannot be used; nothing has
            been written then.
        FederationError: if no client is left; finished rounds are in the folder.
    """
    started = perf_counter()
    data = _check_data(scenario)
    folder = ResultsFolder(out, scenario)
    grids: list[OrderedGrid] = []
    released: list[ArrayRecord] = []

    def order_clients(grid: Grid) -> Grid:
        grids.append(OrderedGrid(grid, scenario.clients.count, scenario.seed))
        return grids[-1]

    recorder = Recorder(
        scenario,
        data,
        folder,
        tell or (lambda record: None),
        lambda node: grids[-1].partition_of(node),
    )
    _quiet_flower()
    run_federation(
        scenario.engine,
        build_server_app(scenario, recorder, released.append, order_clients),
        build_client_app(scenario),
        scenario.clients.count,
    )
    summary = summarize(
        scenario, recorder.records, pick_device(scenario.device), perf_counter() - started
    )
    folder.finish(summary, recorder.records, released[-1].to_torch_state_dict())
    return RunResult(folder=out, records=recorder.records, summary=summary)


def _check_data(scenario: Scenario) -> ImageData:
    """Read and deal out the data here first: a fault must show before anything is written."""
    if scenario.device == "cuda" and not pick_device("auto").type == "cuda":
        raise ConfigError(["device: cuda was asked for, but torch finds no GPU; use auto or cpu"])
    try:
        data = load_data(scenario.data)
    except ValueError as error:
        raise ConfigError([f"data: {error}"]) from error
    try:
        parts = deal_out(scenario.partition, scenario.data, scenario.clients.count, scenario.seed)
    except ValueError as error:
        raise ConfigError([f"partition: {error}"]) from error
    _check_backdoors(scenario, data, parts)
    return data


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


def _quiet_flower() -> None:
    """Show warnings of the defense, and errors of Flower; its progress report is ours to give."""
    flower = logging.getLogger("flwr")
    if "FLWR_LOG_LEVEL" not in os.environ:
        flower.setLevel(logging.ERROR)
    flower.getChild("fl_defense").setLevel(logging.WARNING)
