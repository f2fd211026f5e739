"""What runs the clients: Flower's Ray simulation, or one process. Flower's quirks live here."""

import copy
import itertools
import logging
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from simulations.scenario import InProcessEngine, RayEngine

GPU_SHARE = 0.125
"""Default share of a GPU for a client; leaves room for the repair, which runs in the server."""

CLIENT_ERROR = 1
"""Code of the error that stands for a client's exception."""


def run_federation(
    engine: RayEngine | InProcessEngine,
    server_app: ServerApp,
    client_app: ClientApp,
    num_clients: int,
    *,
    device: torch.device,
) -> None:
    """Run a server and its clients to the end; what the server raises is raised here.

    Args:
        engine: what runs the clients.
        server_app: the server.
        client_app: every client.
        num_clients: clients in the federation.
        device: where clients train; Ray reserves no GPU for them unless they use it.
    """
    if isinstance(engine, RayEngine):
        _run_with_ray(engine, server_app, client_app, num_clients, device)
    else:
        _run_in_process(server_app, client_app, num_clients)


class InProcessGrid(Grid):
    """Runs each client where its message is sent; node ids are partition ids plus one."""

    def __init__(self, client_app: ClientApp, num_clients: int) -> None:
        self._client_app = client_app
        self._contexts = {
            partition + 1: Context(
                run_id=1,
                node_id=partition + 1,
                node_config={"partition-id": partition, "num-partitions": num_clients},
                state=RecordDict(),
                run_config={},
            )
            for partition in range(num_clients)
        }
        self._replies: dict[str, Message] = {}
        self._numbers = itertools.count()

    def get_node_ids(self) -> list[int]:
        """Return 1..n."""
        return list(self._contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Run the addressed clients one after the other.

        An exception becomes an error reply; a client that takes longer than `timeout` has none.
        """
        replies = []
        for message in messages:
            started = time.monotonic()
            reply = self._run_client(message)
            # Clients count as if they ran side by side: each has the whole time to itself.
            if timeout is None or time.monotonic() - started <= timeout:
                replies.append(reply)
        return replies

    def push_messages(self, messages: Iterable[Message]) -> Sequence[str]:
        """Run the addressed clients and keep their replies."""
        names = []
        for message in messages:
            names.append(str(next(self._numbers)))
            self._replies[names[-1]] = self._run_client(message)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return kept replies."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def _run_client(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        # A copy, as over a wire: a client must not reach into the server's arrays.
        try:
            return self._client_app(copy.deepcopy(message), context)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - no client may stop the server
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(CLIENT_ERROR, reason), reply_to=message)

    def set_run(self, run: Any) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Any:
        """There is no run to describe."""
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Make a message; Flower's deprecated way."""
        return Message(*args, **kwargs)


def set_task_identity() -> None:
    """Let this process make messages: since Flower 1.41 they carry the identity of a task."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1


def _run_in_process(server_app: ServerApp, client_app: ClientApp, num_clients: int) -> None:
    set_task_identity()
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
    server_app(InProcessGrid(client_app, num_clients), context)


def _run_with_ray(
    engine: RayEngine,
    server_app: ServerApp,
    client_app: ClientApp,
    num_clients: int,
    device: torch.device,
) -> None:
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray announces a change of how it hides GPUs; nothing here depends on it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    from flwr.simulation import run_simulation

    gpus = GPU_SHARE if engine.gpus_per_client is None else engine.gpus_per_client
    cores = os.cpu_count() or 1
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=num_clients,
        backend_config={
            "client_resources": {
                "num_cpus": min(engine.cpus_per_client, cores),
                "num_gpus": gpus if device.type == "cuda" else 0.0,
            },
            "init_args": {
                "num_cpus": cores,
                "logging_level": logging.ERROR,
                "log_to_driver": False,
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",
            },
        },
    )
