"""Clients in the same order in every run, whatever Flower's node ids are."""

import random
import time
from collections.abc import Iterable
from typing import Any

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fl_defense.flower.asked import node_of, nodes_by_message
from fl_defense.log import logger

SECONDS_PER_REMINDER = 15.0
"""How often the log says that clients are missing."""
QUERY_SECONDS = 600.0
"""How long clients may take to tell their partition."""


class OrderedGrid(Grid):
    """A grid whose clients come in the order of their partitions, in every run alike.

    Flower's node ids are random and its replies come as clients finish, so that sums of floats and
    the clients drawn differ from run to run. This wrapper asks each client for its partition once,
    then lists nodes and replies in that order and seeds the drawing by the round.
    """

    def __init__(self, grid: Grid, num_clients: int, seed: int, num_finished: int = 0) -> None:
        self.trained: list[int] = []
        """Partitions of the clients that were last asked to train."""
        self._grid = grid
        self._num_clients = num_clients
        self._seed = seed
        self._num_trainings = num_finished
        self._partition_of: dict[int, int] = {}
        self._nodes: list[int] = []

    def partition_of(self, node_id: int) -> int | None:
        """Return the partition id of a node; None if no client has that id."""
        return self._partition_of.get(node_id)

    def memory_of(self, partition: int) -> dict[str, Tensor]:
        """Ask the client of a partition what its attack remembers; nothing if it does not say."""
        nodes = self._nodes[partition : partition + 1]
        questions = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
        for reply in self._grid.send_and_receive(questions, timeout=QUERY_SECONDS):
            if not reply.has_error():
                for arrays in reply.content.array_records.values():
                    return dict(arrays.to_torch_state_dict())
        return {}

    def get_node_ids(self) -> list[int]:
        """Return all node ids by partition; waits until every client has registered."""
        if not self._partition_of:
            self._ask_partitions()
        # Flower draws clients with random.sample right after listing them; anything else in this
        # process may draw in between two rounds.
        random.seed(f"{self._seed}/{self._num_trainings}")
        return self._nodes

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Return the replies by partition; those of nobody who was asked go last."""
        messages = list(messages)
        training = [m for m in messages if m.metadata.message_type == MessageType.TRAIN]
        if training:
            self._num_trainings += 1
            self.trained = [self._partition_of[m.metadata.dst_node_id] for m in training]
        replies = self._grid.send_and_receive(messages, timeout=timeout)
        asked = nodes_by_message(sent.metadata for sent in messages)

        def place(reply: Message) -> int:
            partition = self.partition_of(node_of(reply, asked))
            return len(self._partition_of) if partition is None else partition

        return sorted(replies, key=place)

    def _ask_partitions(self) -> None:
        nodes = self._registered()
        questions = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
        replies = self._grid.send_and_receive(questions, timeout=QUERY_SECONDS)
        partitions = {reply.metadata.src_node_id: _told_partition(reply) for reply in replies}
        free = set(range(len(nodes)))
        strange = []
        for node in sorted(nodes):
            partition = partitions.get(node)
            if partition in free:
                self._partition_of[node] = partition
                free.remove(partition)
            else:
                strange.append(node)
        # A client that tells nothing, or what another has told, must not stop the others.
        for node, partition in zip(strange, sorted(free), strict=True):
            logger.warning("node %d tells no partition of its own, counts as %d", node, partition)
            self._partition_of[node] = partition
        self._nodes = sorted(self._partition_of, key=self._partition_of.__getitem__)

    def _registered(self) -> list[int]:
        """Return the nodes once there are enough of them."""
        reminded = time.monotonic()
        while len(nodes := list(self._grid.get_node_ids())) < self._num_clients:
            if time.monotonic() - reminded > SECONDS_PER_REMINDER:
                logger.warning("%d of %d clients are there", len(nodes), self._num_clients)
                reminded = time.monotonic()
            time.sleep(0.1)
        return nodes

    def set_run(self, run: Any) -> None:
        """Delegate."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """Delegate."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Delegate."""
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Delegate."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Delegate."""
        return self._grid.pull_messages(message_ids)


def _told_partition(reply: Message) -> int | None:
    """Return the partition id in an answer, or None if it holds none."""
    if not reply.has_content() or len(reply.content.metric_records) != 1:
        return None
    (answer,) = reply.content.metric_records.values()
    partition = answer.get("partition-id")
    return partition if isinstance(partition, int) else None
