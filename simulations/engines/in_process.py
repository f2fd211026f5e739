"""All clients in one process, one after the other."""

import copy
import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_defense.progress import counted
from simulations.engines.base import ClientCores

CLIENT_ERROR = 1
"""Code of the error that stands for a client's exception."""


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
        for message in counted("training clients", list(messages)):
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
        message.metadata.__dict__["_message_id"] = str(next(self._numbers))
        # A copy, as over a wire: a client must not reach into the server's arrays.
        try:
            reply = self._client_app(copy.deepcopy(message), context)
            if not isinstance(reply, Message):
                raise TypeError(f"a client must answer with a Message, got {type(reply).__name__}")
            return reply
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
        context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
        server_app(InProcessGrid(client_app, num_clients), context)
