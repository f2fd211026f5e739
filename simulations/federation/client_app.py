"""The clients: honest or malicious, by partition id."""

from collections.abc import Callable
from dataclasses import fields
from multiprocessing.reduction import ForkingPickler
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from simulations.data.load import ClientImages
from simulations.engines.shared_memory import SharedTensors
from simulations.federation.local_training import images_of, train_client
from simulations.federation.quiet import quiet_flower
from simulations.scenario.scenario import Scenario

MEMORY = "attack"
"""Where Flower keeps, for a client, what its attack remembers from round to round."""


class ScenarioClients(ClientApp):
    """The Flower app of a scenario's clients.

    It holds the scenario, not the data: Ray ships the app with every message, and each of its
    processes reads the data once. To worker processes of this one it goes with the data, in memory
    that all share.
    """

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        self.scenario = scenario
        self.shared: SharedTensors | None = None


def build_client_app(scenario: Scenario, data: ClientImages | None = None) -> ClientApp:
    """Return the Flower app that every client runs.

    Args:
        scenario: the experiment.
        data: the images of all clients; None: whoever trains first reads and deals them out.
    """
    app = ScenarioClients(scenario)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition_id = int(cast(int, context.node_config["partition-id"]))
        config = cast(ConfigRecord, message.content["config"])
        received = cast(ArrayRecord, message.content["arrays"]).to_torch_state_dict()
        memory = _remembered(context)
        arrays, metrics = train_client(
            scenario,
            partition_id,
            server_round=cast(int, config["server-round"]),
            received=received,
            proximal_mu=cast(float, config.get("proximal-mu", 0.0)),
            memory=memory,
            data=data,
        )
        if memory:
            context.state[MEMORY] = ArrayRecord(memory)
        content = RecordDict(
            {"arrays": ArrayRecord(dict(arrays)), "metrics": MetricRecord(dict(metrics))}
        )
        return Message(content, reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        """Tell the partition id, by which the server orders and draws clients.

        Attackers also tell what they remember: where they learn their trigger it is measured by
        that. No defense sees these answers.
        """
        answer = MetricRecord({"partition-id": int(cast(int, context.node_config["partition-id"]))})
        content = RecordDict({"metrics": answer})
        if MEMORY in context.state:
            content[MEMORY] = context.state[MEMORY]
        return Message(content, reply_to=message)

    return app


def _share(app: ScenarioClients) -> tuple[Callable[..., ClientApp], tuple[Any, ...]]:
    """Take an app apart for a process on this machine."""
    if app.shared is None:
        data = images_of(app.scenario)
        app.shared = SharedTensors.move(
            {field.name: getattr(data, field.name) for field in fields(data)}
        )
    return _from_shared, (app.scenario, app.shared)


def _from_shared(scenario: Scenario, shared: SharedTensors) -> ClientApp:
    """Build the app in a worker process."""
    quiet_flower()
    return build_client_app(scenario, ClientImages(**shared.tensors()))


ForkingPickler.register(ScenarioClients, _share)


def _remembered(context: Context) -> dict[str, Tensor]:
    """Return what a malicious client kept of earlier rounds; honest ones keep nothing."""
    if MEMORY not in context.state:
        return {}
    return dict(cast(ArrayRecord, context.state[MEMORY]).to_torch_state_dict())
