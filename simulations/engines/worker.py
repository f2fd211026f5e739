"""A worker process: it runs clients until it is told to stop, or whoever started it is gone."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from simulations.engines.base import EngineError
from simulations.engines.local_grid import run_client, set_task_identity
from simulations.engines.shared_memory import Outbox, Place, SharedMemory, unpack

SENT, STATE, REPLY = "sent", "state", "reply"
"""The shared memories: what all workers are sent, what one client keeps, what it answers."""


def starting_context(client_app: ClientApp) -> ForkServerContext | SpawnContext:
    """Return the way to start workers; where it can, imports have begun when this returns.

    Linux has a process that imports once and is copied for each worker. It has used no thread of
    torch, so that copies are whole; a copy of the server would not be.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, type(client_app).__module__])
    forkserver.ensure_running()
    return context


class Worker:
    """The server's end of a worker process.

    Args:
        context: how processes are started.
        client_app: every client.

    Raises:
        EngineError: if the clients cannot be sent to another process.
    """

    def __init__(self, context: ForkServerContext | SpawnContext, client_app: ClientApp) -> None:
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._state = Outbox(STATE)
        self._known: dict[str, SharedMemory] = {}
        self._memories: dict[str, SharedMemory] = {}
        self._ready = False
        try:
            self.connection.send(client_app)
        except OSError:
            pass  # it ended already: `receive` says so
        except Exception as error:  # anybody's classes may raise anything when pickled
            self.kill()
            raise EngineError(
                f"engine: clients cannot be sent to worker processes "
                f"({type(error).__name__}: {error}); use engine in-process"
            ) from error

    def send(
        self, message: Message, context: Context, sent: SharedMemory, places: Mapping[int, Place]
    ) -> None:
        """Ask it to run a client.

        Args:
            message: to the client.
            context: the client's.
            sent: what is sent to all.
            places: bytes in `sent` by `id`.

        Raises:
            EOFError: if the process has ended.
        """
        packed = self._state.pack((message, context), places)
        memories = {SENT: sent, STATE: self._state.memory}
        fresh = {name: each for name, each in memories.items() if self._known.get(name) is not each}
        self._known |= fresh
        try:
            self.connection.send((packed, fresh))
        except OSError as error:
            raise EOFError from error

    def receive(self) -> tuple[Message, RecordDict] | None:
        """Return what it said: a reply and the client's state; None: that it is ready.

        Raises:
            EOFError: if the process has ended.
            EngineError: if it cannot run clients.
        """
        try:
            if not self._ready:
                if (fault := self.connection.recv()) is not None:
                    raise EngineError(
                        f"engine: a worker process cannot run clients ({fault}); what a scenario "
                        "names must be importable, or use engine in-process"
                    )
                self._ready = True
                return None
            packed, fresh = self.connection.recv()
        except (OSError, EOFError) as error:
            self._process.join(1)
            if not self._ready and self._process.exitcode == 1:
                raise EngineError(
                    "engine: a worker process ended before it was ready; a script that starts a "
                    'run must do so under `if __name__ == "__main__":`, or use engine in-process'
                ) from error
            raise EOFError from error
        self._memories |= fresh
        reply, state = unpack(packed, self._memories)
        return reply, state

    def how_it_ended(self) -> str:
        """Return the signal or the code with which the process ended."""
        self._process.join(1)
        code = self._process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End the process, whatever it does, and wait until it is gone."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _work(server: Connection) -> None:
    """Run clients until the server closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to answer
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    set_task_identity()
    try:
        client_app = server.recv()
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001 - the server tells the user
        server.send(f"{type(error).__name__}: {error}")
        return
    gc.freeze()  # Flower collects garbage whenever it reads a model's arrays
    server.send(None)
    outbox = Outbox(REPLY)
    known = outbox.memory
    memories: dict[str, SharedMemory] = {}
    while True:
        try:
            packed, fresh = server.recv()
        except (EOFError, OSError):
            return
        memories |= fresh
        message, context = unpack(packed, memories)
        reply = run_client(client_app, message, context)
        packed = outbox.pack((reply, context.state))
        fresh = {} if outbox.memory is known else {REPLY: outbox.memory}
        known = outbox.memory
        server.send((packed, fresh))


def _end_with_the_server() -> None:
    """End this process as soon as the one that started it has ended, even if that was killed."""
    parent: Any = multiprocessing.parent_process()
    connection.wait([parent.sentinel])
    os._exit(1)
