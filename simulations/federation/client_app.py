"""The clients: honest or malicious, by partition id."""

from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from simulations.federation.local_training import train_client
from simulations.scenario.scenario import Scenario

MEMORY = "attack"
"""Where Flower keeps, for a client, what its attack remembers from round to round."""


def build_client_app(scenario: Scenario) -> ClientApp:
    """Return the Flower app that every client runs.

    It holds the scenario, not the data: Ray ships the app with every message, and each worker
    process reads the data once.
    """
    app = ClientApp()

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


def _remembered(context: Context) -> dict[str, Tensor]:
    """Return what a malicious client kept of earlier rounds; honest ones keep nothing."""
    if MEMORY not in context.state:
        return {}
    return dict(cast(ArrayRecord, context.state[MEMORY]).to_torch_state_dict())
