"""Clients spread over worker processes on this machine."""

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection

import torch
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fl_defense.progress import counting
from fl_defense.validation import require_at_least
from simulations.engines.base import ClientCores, EngineError
from simulations.engines.local_grid import (
    TRAINING,
    LocalGrid,
    failure,
    server_context,
    set_task_identity,
)
from simulations.engines.shared_memory import Outbox, Place
from simulations.engines.worker import SENT, Worker, starting_context

RETRIES = 2
"""How often a client is run again whose process was killed, as by a system short of memory."""


@dataclass(kw_only=True)
class _Job:
    """A message on its way to a client."""

    index: int
    message: Message
    ends: list[str] = field(default_factory=list)
    """How the processes ended that ran it."""
    deadline: float = float("inf")


class WorkersGrid(LocalGrid):
    """Runs the addressed clients in worker processes, whichever is free.

    Workers start when they are first needed. What all clients are sent lies once in shared memory,
    and each worker has a place there for its answers.

    Args:
        client_app: every client; picklable.
        num_clients: clients in the federation.
        num_workers: most processes at a time.
    """

    def __init__(self, client_app: ClientApp, num_clients: int, num_workers: int) -> None:
        super().__init__(num_clients)
        self._client_app, self._num_workers = client_app, num_workers
        self._context = starting_context(client_app)
        self._sent = Outbox(SENT)
        self._idle: list[Worker] = []
        self._starting: set[Worker] = set()
        self._running: dict[Worker, _Job] = {}
        self._failed_starts: list[str] = []

    @property
    def sent_bytes(self) -> int:
        """Bytes of shared memory that what is sent takes, however many clients it is sent to."""
        return self._sent.memory.size

    def close(self) -> None:
        """End all workers, whatever they do."""
        for worker in (*self._idle, *self._starting, *self._running):
            worker.kill()
        self._idle, self._starting, self._running = [], set(), {}

    def _answers(self, messages: Sequence[Message], timeout: float | None) -> list[Message | None]:
        replies: list[Message | None] = [None] * len(messages)
        waiting = deque(_Job(index=i, message=message) for i, message in enumerate(messages))
        places = self._sent.put(
            array.data
            for message in messages
            if message.has_content()
            for arrays in message.content.array_records.values()
            for array in arrays.values()
        )
        limit = float("inf") if timeout is None else timeout
        with counting(TRAINING, len(messages)) as one_more:
            while waiting or self._running:
                self._start(len(waiting) + len(self._running))
                self._dispatch(waiting, places, limit)
                before = len(waiting) + len(self._running)
                for worker in self._that_speak():
                    self._hear(worker, waiting, replies)
                self._end_overdue()
                for _ in range(before - len(waiting) - len(self._running)):
                    one_more()
        return replies

    def _end_overdue(self) -> None:
        """End workers whose client had its time: they must not stand in the next one's way."""
        now = time.monotonic()
        for worker, job in list(self._running.items()):
            if now > job.deadline:
                del self._running[worker]
                worker.kill()

    def _start(self, num_jobs: int) -> None:
        """Start as many workers as there is work for."""
        there = len(self._idle) + len(self._starting) + len(self._running)
        for _ in range(min(self._num_workers, num_jobs) - there):
            self._starting.add(Worker(self._context, self._client_app))

    def _dispatch(self, waiting: deque[_Job], places: Mapping[int, Place], timeout: float) -> None:
        """Give each idle worker a message; no client has two at a time, for it has one state."""
        at_work = {job.message.metadata.dst_node_id for job in self._running.values()}
        for job in list(waiting):
            node = job.message.metadata.dst_node_id
            if not self._idle:
                return
            if node in at_work:
                continue
            worker = self._idle.pop()
            waiting.remove(job)
            job.deadline = time.monotonic() + timeout
            self._running[worker] = job
            at_work.add(node)
            with suppress(EOFError):  # it ended while it was idle: hearing from it tells how
                worker.send(job.message, self._context_of(node), self._sent.memory, places)

    def _that_speak(self) -> list[Worker]:
        """Wait for workers that have something to say, or have ended, or have had their time."""
        speakers = [*self._starting, *self._running]
        deadline = min((job.deadline for job in self._running.values()), default=float("inf"))
        left = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        ready = connection.wait([worker.connection for worker in speakers], left)
        return [worker for worker in speakers if worker.connection in ready]

    def _hear(self, worker: Worker, waiting: deque[_Job], replies: list[Message | None]) -> None:
        try:
            said = worker.receive()
        except EOFError:
            self._bury(worker, waiting, replies)
            return
        if said is None:
            self._starting.discard(worker)
            self._failed_starts.clear()
        else:
            job = self._running.pop(worker)
            replies[job.index], state = said
            self._keep(job.message.metadata.dst_node_id, state)
        self._idle.append(worker)

    def _bury(self, worker: Worker, waiting: deque[_Job], replies: list[Message | None]) -> None:
        """Let another worker run the client whose process ended, but not for ever."""
        end = worker.how_it_ended()
        worker.kill()
        if worker in self._starting:
            self._starting.discard(worker)
            self._failed_starts.append(end)
            if len(self._failed_starts) > RETRIES:
                ends = ", ".join(self._failed_starts)
                raise EngineError(f"engine: worker processes end before they are ready ({ends})")
            return
        job = self._running.pop(worker)
        job.ends.append(end)
        if len(job.ends) <= RETRIES:
            waiting.appendleft(job)
        else:
            reason = f"its process ended each time that it ran ({', '.join(job.ends)})"
            replies[job.index] = failure(reason, job.message)


@dataclass(frozen=True, kw_only=True)
class ProcessesEngine(ClientCores):
    """Worker processes on this machine, which stay for the whole run; the fastest for small models.

    A client whose process is killed is run again by another one, two times at most; then it has
    failed. A client that takes longer than `clients.timeout-seconds` is ended.

    Example:
        >>> ProcessesEngine(workers=4).workers
        4
    """

    workers: int | None = None
    """Processes; null: one for each client that the CPU cores bear, and a single one on a GPU. The
    number makes no difference to results."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers is not None:
            require_at_least(self, workers=1)

    def run(
        self,
        server_app: ServerApp,
        client_app: ClientApp,
        num_clients: int,
        device: torch.device,
    ) -> None:
        """Run the server in this process, and the clients in workers, which end with it.

        Raises:
            EngineError: if no worker can be had, or clients cannot be sent to one.
        """
        set_task_identity()
        grid = WorkersGrid(client_app, num_clients, self.num_workers(device))
        try:
            server_app(grid, server_context())
        finally:
            grid.close()

    def num_workers(self, device: torch.device) -> int:
        """Return how many processes there are at most."""
        if self.workers is not None:
            return self.workers
        if device.type == "cuda":
            return 1
        return max(1, available_cores() // self.cpus_per_client)


def available_cores() -> int:
    """Return on how many cores this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
