"""What the engines without Ray share: a grid on this machine, and how one client is run."""

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

CLIENT_ERROR = 1
"""Code of the error that stands for a client's exception."""

TRAINING = "training clients"
"""The step whose progress a grid tells."""


class LocalGrid(Grid):
    """Runs each client where its message is sent; node ids are partition ids plus one.

    Of a client nothing is kept but its state, once it has one: clients that are never asked cost
    nothing.
    """

    def __init__(self, num_clients: int) -> None:
        self._num_clients = num_clients
        self._states: dict[int, RecordDict] = {}
        self._replies: dict[str, Message] = {}
        self._numbers = itertools.count()

    @abstractmethod
    def _answers(self, messages: Sequence[Message], timeout: float | None) -> list[Message | None]:
        """Return the reply to each message, or None where the client took longer than that."""

    @property
    def clients_with_state(self) -> int:
        """Clients of which something is kept."""
        return len(self._states)

    def partition_of(self, node_id: int) -> int:
        """Return the partition of a node."""
        return node_id - 1

    def get_node_ids(self) -> list[int]:
        """Return 1..n."""
        return list(range(1, self._num_clients + 1))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Run the addressed clients and return their replies.

        An exception becomes an error reply; a client that takes longer than `timeout` has none.
        """
        return [reply for reply in self._answers(self._named(messages), timeout) if reply]

    def push_messages(self, messages: Iterable[Message]) -> Sequence[str]:
        """Run the addressed clients and keep their replies."""
        replies = self._answers(self._named(messages), None)
        names = [str(next(self._numbers)) for _ in replies]
        self._replies |= {name: reply for name, reply in zip(names, replies, strict=True) if reply}
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return kept replies."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def set_run(self, run: Any) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Any:
        """There is no run to describe."""
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Make a message; Flower's deprecated way."""
        return Message(*args, **kwargs)

    def _named(self, messages: Iterable[Message]) -> list[Message]:
        messages = list(messages)
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(next(self._numbers))
        return messages

    def _context_of(self, node_id: int) -> Context:
        """Return what a client is and keeps."""
        return Context(
            run_id=1,
            node_id=node_id,
            node_config={
                "partition-id": self.partition_of(node_id),
                "num-partitions": self._num_clients,
            },
            state=self._states.get(node_id) or RecordDict(),
            run_config={},
        )

    def _keep(self, node_id: int, state: RecordDict) -> None:
        """Keep a client's state for its next message."""
        if state:
            self._states[node_id] = state
        else:
            self._states.pop(node_id, None)


def run_client(client_app: ClientApp, message: Message, context: Context) -> Message:
    """Return a client's reply; its exception becomes an error."""
    try:
        reply = client_app(message, context)
        if not isinstance(reply, Message):
            raise TypeError(f"a client must answer with a Message, got {type(reply).__name__}")
        return reply
    except (Exception, SystemExit) as error:  # noqa: BLE001 - no client may stop the server
        return failure(f"{type(error).__name__}: {error}", message)


def failure(reason: str, message: Message) -> Message:
    """Return the reply that stands for a client's failure."""
    return Message(Error(CLIENT_ERROR, reason), reply_to=message)


def set_task_identity() -> None:
    """Let this process make messages: since Flower 1.41 they carry the identity of a task."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1


def server_context() -> Context:
    """Return the context of a server."""
    return Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
