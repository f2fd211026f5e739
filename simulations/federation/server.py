"""The server: the global model, the wrapped aggregator, the rounds, what is left of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from fl_defense.flower.checkpoint import CheckpointFile
from fl_defense.flower.strategy import Observer, SanitizingStrategy
from fl_defense.log import logger
from fl_defense.model.files import ModelFileError, export_deployed, load_weights, read_weights
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import seeded
from simulations.data import ImageData
from simulations.federation.deterministic_grid import OrderedGrid
from simulations.measurement.measured_round import MeasuredRound
from simulations.measurement.recorder import FederationError, Recorder
from simulations.measurement.results_folder import Interrupted, ResultsFolder
from simulations.measurement.summary import summarize
from simulations.measurement.tracking import tracked
from simulations.scenario.devices import pick_device
from simulations.scenario.scenario import Scenario

Tell = Callable[[MeasuredRound], None]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a finished run leaves: its folder, rounds and summary."""

    folder: Path
    records: list[MeasuredRound]
    summary: dict[str, Any]


def serve(
    grid: Grid,
    scenario: Scenario,
    data: ImageData,
    folder: ResultsFolder,
    *,
    tell: Tell | None = None,
    interrupted: Interrupted | None = None,
) -> RunResult:
    """Run a scenario's rounds over any clients that Flower reaches, and write the results folder.

    Args:
        grid: the clients, which run `build_client_app`'s app for the same scenario.
        scenario: the experiment.
        data: its images; only the held-out ones are used.
        folder: where to write.
        tell: called with every finished round.
        interrupted: where an interrupted run goes on; None: at the beginning.

    Raises:
        FederationError: if no client is left or no round was aggregated; what is finished is in the
            folder.
    """
    started = perf_counter()
    checkpoint = interrupted.checkpoint if interrupted else None
    finished = interrupted.records if interrupted else []
    num_finished = checkpoint.carried.round if checkpoint else 0
    ordered = OrderedGrid(grid, scenario.clients.count, scenario.seed, num_finished)
    with tracked(scenario, folder.path, finished) as tracking:

        def told(measured: MeasuredRound) -> None:
            tracking.write(measured)
            if tell is not None:
                tell(measured)

        recorder = Recorder(scenario, data, folder, told, ordered, finished)
        strategy = build_strategy(scenario, recorder, folder.checkpoint_file)
        if checkpoint is not None:
            strategy.resume(checkpoint)
        result = strategy.start(
            ordered,
            ArrayRecord(start_model(scenario).state_dict()),
            num_rounds=scenario.rounds,
            timeout=scenario.clients.timeout_seconds,
        )
        if strategy.released is None:
            raise FederationError(
                f"no round gave a model: {type(scenario.aggregator).__name__} aggregated none of "
                f"{scenario.rounds}; see {folder.path / 'rounds.jsonl'} for how many replied"
            )
        seconds = perf_counter() - started + sum(map(_seconds, finished))
        summary = summarize(scenario, recorder.records, pick_device(scenario.device), seconds)
        folder.finish(summary, recorder.records, result.arrays.to_torch_state_dict())
    _export(recorder, folder.path / "deployed.pt2", scenario.data.input_shape)
    return RunResult(folder=folder.path, records=recorder.records, summary=summary)


def build_strategy(
    scenario: Scenario,
    observe: Observer | None = None,
    checkpoint_file: CheckpointFile | None = None,
) -> SanitizingStrategy:
    """Return the scenario's aggregator wrapped in the scenario's defense."""
    repair = scenario.repair
    return SanitizingStrategy(
        scenario.aggregator.build(scenario.num_replies, scenario.clients.count),
        scenario.defense,
        scenario.model_spec(),
        screens=scenario.screens,
        schedule=repair.schedule,
        inspection=repair.inspection,
        verify=repair.verify,
        min_agreement=repair.min_agreement,
        on_failure=repair.on_failure,
        buffers=repair.buffers,
        broadcast=repair.broadcast,
        reference_age=repair.reference_age,
        reply_check=repair.reply_check,
        seed=scenario.seed,
        device=pick_device(scenario.device),
        observe=observe,
        checkpoint_file=checkpoint_file,
    )


def initial_model(spec: ModelSpec, seed: int) -> torch.nn.Module:
    """Build the initial global model from the seed, leaving the global random state alone."""
    with seeded(seed, torch.device("cpu")):
        return spec.build()


def start_model(scenario: Scenario) -> torch.nn.Module:
    """Return the model of round 0: the scenario's file, or drawn from its seed.

    Raises:
        ModelFileError: if the file cannot be read or holds another model's weights.
    """
    model = initial_model(scenario.model_spec(), scenario.seed)
    if scenario.initial_model is not None:
        path = Path(scenario.initial_model)
        load_weights(model, read_weights(path), path)
    return model


def _export(recorder: Recorder, path: Path, input_shape: tuple[int, int, int]) -> None:
    """Write the deployed system if a purifier is part of it; failing to leaves the results whole.

    The weights alone are still backdoored then: what is deployed is weights and purifier.
    """
    deployed = recorder.deployed
    if deployed is None:
        # Resumed after its last round: the purifier ended with the process that made it.
        if recorder.records and "unpurified" in recorder.records[-1].rates:
            logger.warning(
                "%s: not written, for the run was interrupted after its last round, which lost the "
                "purifier; model.safetensors alone is not repaired, use `fl-defense repair` on it",
                path,
            )
        return
    if deployed.purify is None:
        return
    try:
        export_deployed(path, deployed, input_shape)
    except ModelFileError as error:
        logger.warning("%s; model.safetensors alone, without the purifier, is not repaired", error)


def _seconds(measured: MeasuredRound) -> float:
    record = measured.record
    own = (
        record.train_seconds
        + record.screen_seconds
        + record.sanitize_seconds
        + record.verify_seconds
    )
    return own + measured.evaluate_seconds
