"""All clients in one process, one after the other."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fl_defense.progress import counted
from simulations.engines.base import ClientCores
from simulations.engines.local_grid import (
    TRAINING,
    LocalGrid,
    run_client,
    server_context,
    set_task_identity,
)


class InProcessGrid(LocalGrid):
    """Runs the addressed clients one after the other in this process."""

    def __init__(self, client_app: ClientApp, num_clients: int) -> None:
        super().__init__(num_clients)
        self._client_app = client_app

    def _answers(self, messages: Sequence[Message], timeout: float | None) -> list[Message | None]:
        replies: list[Message | None] = []
        for message in counted(TRAINING, messages):
            started = time.monotonic()
            context = self._context_of(message.metadata.dst_node_id)
            # A copy, as over a wire: a client must not reach into the server's arrays.
            reply = run_client(self._client_app, copy.deepcopy(message), context)
            self._keep(context.node_id, context.state)
            # Clients count as if they ran side by side: each has the whole time to itself.
            late = timeout is not None and time.monotonic() - started > timeout
            replies.append(None if late else reply)
        return replies


@dataclass(frozen=True, kw_only=True)
class InProcessEngine(ClientCores):
    """One process, one client after the other: no start-up cost, easy to debug.

    Example:
        >>> InProcessEngine(cpus_per_client=2).cpus_per_client
        2
    """

    def run(
        self,
        server_app: ServerApp,
        client_app: ClientApp,
        num_clients: int,
        device: torch.device,
    ) -> None:
        """Run the server and, at each of its messages, the clients, in this process."""
        del device
        set_task_identity()
        server_app(InProcessGrid(client_app, num_clients), server_context())
