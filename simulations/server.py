"""The server: the global model, the wrapped aggregator, the round loop."""

from collections.abc import Callable

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from fl_defense.model_spec import ModelSpec
from fl_defense.strategy import Observer, SanitizingStrategy
from simulations.client import pick_device
from simulations.scenario import Scenario

OrderClients = Callable[[Grid], Grid]


def build_strategy(scenario: Scenario, observe: Observer | None = None) -> SanitizingStrategy:
    """Return the scenario's aggregator wrapped in the scenario's defense."""
    repair = scenario.repair
    return SanitizingStrategy(
        scenario.aggregator.build(scenario.num_replies, scenario.clients.count),
        scenario.defense,
        scenario.model_spec(),
        schedule=repair.schedule,
        min_agreement=repair.min_agreement,
        on_failure=repair.on_failure,
        broadcast=repair.broadcast,
        reply_check=repair.reply_check,
        seed=scenario.seed,
        device=pick_device(scenario.device),
        observe=observe,
    )


def build_server_app(
    scenario: Scenario,
    observe: Observer,
    on_result: Callable[[ArrayRecord], None],
    order_clients: OrderClients,
) -> ServerApp:
    """Return the Flower app that runs the scenario's rounds.

    Args:
        scenario: the experiment.
        observe: shown every round.
        on_result: given the arrays of the released model.
        order_clients: wraps the grid so that clients come in the same order in every run.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        strategy = build_strategy(scenario, observe)
        result = strategy.start(
            order_clients(grid),
            ArrayRecord(initial_model(scenario.model_spec(), scenario.seed).state_dict()),
            num_rounds=scenario.rounds,
            timeout=scenario.clients.timeout_seconds,
        )
        on_result(result.arrays)

    return app


def initial_model(spec: ModelSpec, seed: int) -> torch.nn.Module:
    """Build the initial global model from the seed, leaving the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return spec.build()
