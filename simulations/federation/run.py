"""Runs a scenario from beginning to end, or from where it was interrupted, on this machine."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from simulations.data import ImageData
from simulations.federation.client_app import build_client_app
from simulations.federation.preflight import check_scenario
from simulations.federation.quiet import quiet_flower
from simulations.federation.server import RunResult, Tell, serve
from simulations.measurement.folder_lock import sole_writer
from simulations.measurement.results_folder import Interrupted, ResultsFolder
from simulations.scenario.devices import pick_device
from simulations.scenario.scenario import Scenario


def run_scenario(scenario: Scenario, out: Path, tell: Tell | None = None) -> RunResult:
    """Run a federation and write its results folder.

    Args:
        scenario: the experiment.
        out: folder to write; must not hold a run yet.
        tell: called with every finished round.

    Raises:
        ConfigError: if the data cannot be had or dealt out, `out` cannot be used, or another
            process writes into it; nothing has been written then.
        FederationError: if no client is left or no round was aggregated; what is finished is in the
            folder.
    """
    data = check_scenario(scenario)
    with sole_writer(out, make=True):
        return _run(scenario, data, ResultsFolder.begin(out, scenario), tell, None)


def resume_run(out: Path, tell: Tell | None = None) -> RunResult:
    """Finish an interrupted run; its rounds are those of an uninterrupted one.

    Args:
        out: the folder of the run.
        tell: called with every round that is finished now.

    Raises:
        ConfigError: if the folder holds no interrupted run, or its checkpoint is damaged or of
            another run; nothing has been changed then.
        FederationError: if no client is left or no round was aggregated; what is finished is in the
            folder.
    """
    with sole_writer(out):
        folder, scenario, interrupted = ResultsFolder.reopen(out)
        return _run(scenario, check_scenario(scenario), folder, tell, interrupted)


def _run(
    scenario: Scenario,
    data: ImageData,
    folder: ResultsFolder,
    tell: Tell | None,
    interrupted: Interrupted | None,
) -> RunResult:
    results: list[RunResult] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        results.append(serve(grid, scenario, data, folder, tell=tell, interrupted=interrupted))

    quiet_flower()
    scenario.engine.run(
        server_app,
        build_client_app(scenario),
        scenario.clients.count,
        pick_device(scenario.device),
    )
    return results[0]
