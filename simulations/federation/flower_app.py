"""The simulations as a Flower app: `flwr run` runs the scenarios that `fl-defense run` runs.

Run-config keys, set with `flwr run . CONNECTION -c 'KEY="VALUE" ...'`:
    scenario: a YAML file, relative to the app's folder; it travels with the app to every client.
    settings: overrides as for `--set`, separated by spaces, e.g. "rounds=3 defense.name=none".
    out: results folder on the server; by default results/NAME/RUN under the SuperLink's folder.
    resume: results folder of an interrupted run, to be finished; `scenario` and `settings` must be
        those of that run, for the clients read them.
"""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_defense.log import logger
from simulations.federation.client_app import build_client_app
from simulations.scenario import ConfigError
from simulations.scenario.load import load_scenario
from simulations.scenario.scenario import Scenario

# Before torch is imported, as in simulations/cli/main.py: idle threads must sleep, not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


APP_FOLDER = Path(__file__).parents[2]


server = ServerApp()


client = ClientApp()


@server.main()
def serve_run(grid: Grid, context: Context) -> None:
    """Run the scenario's rounds and write its results folder on the server."""
    # Imported here: clients load this module too and need no evaluation.
    from simulations.federation.preflight import check_scenario
    from simulations.federation.server import serve
    from simulations.measurement.folder_lock import sole_writer
    from simulations.measurement.results_folder import ResultsFolder
    from simulations.measurement.round_table import header, row

    scenario = scenario_of(context.run_config)
    resume, out = str(context.run_config["resume"]), str(context.run_config["out"])
    data, interrupted = check_scenario(scenario), None
    default = Path("results") / scenario.name / str(context.run_id)
    path = Path(resume or out or default)
    with sole_writer(path, make=not resume):
        if resume:
            folder, resumed, interrupted = ResultsFolder.reopen(path)
            if resumed != scenario:
                raise ConfigError([f"{resume}: holds a run of another scenario; give its own"])
        else:
            folder = ResultsFolder.begin(path, scenario)
        logger.info("results: %s", folder.path.resolve())
        logger.info(header(scenario.metrics))
        serve(
            grid,
            scenario,
            data,
            folder,
            tell=lambda measured: logger.info(row(measured, scenario.metrics)),
            interrupted=interrupted,
        )


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train like the client of the same partition in a simulation."""
    return build_client_app(scenario_of(context.run_config))(message, context)


@client.query()
def query(message: Message, context: Context) -> Message:
    """Tell the partition id, by which the server orders and draws clients."""
    return build_client_app(scenario_of(context.run_config))(message, context)


def scenario_of(run_config: Mapping[str, Any]) -> Scenario:
    """Return the scenario that a run names.

    Raises:
        ConfigError: with all its faults.
    """
    return _load(str(run_config["scenario"]), str(run_config["settings"]))


@lru_cache(maxsize=4)
def _load(scenario: str, settings: str) -> Scenario:
    return load_scenario(APP_FOLDER / scenario, settings.split())
