"""The contract of an engine: it runs a server and its clients on this machine."""

from dataclasses import dataclass
from typing import Protocol

import torch
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fl_defense.validation import require_at_least


class EngineError(RuntimeError):
    """Clients cannot be run; the message says why and what to do.

    Example:
        >>> raise EngineError("engine.address: nobody answers at 10.0.0.1:6379; start Ray there")
        Traceback (most recent call last):
        simulations.engines.base.EngineError: engine.address: nobody answers at ...
    """


class Engine(Protocol):
    """Runs a federation; a frozen dataclass whose fields are its settings.

    Example:
        >>> from simulations.engines import ENGINES
        >>> ENGINES["in-process"](cpus_per_client=2).cpus_per_client
        2
    """

    @property
    def cpus_per_client(self) -> int:
        """CPU cores, and torch threads, of one client."""

    def run(
        self,
        server_app: ServerApp,
        client_app: ClientApp,
        num_clients: int,
        device: torch.device,
    ) -> None:
        """Run a server and its clients to the end; what the server raises is raised here.

        A client that raises, or whose process is killed, becomes an error reply.

        Args:
            server_app: the server.
            client_app: every client.
            num_clients: clients in the federation.
            device: where clients train.

        Raises:
            EngineError: if no client can be run at all.
        """


@dataclass(frozen=True, kw_only=True)
class ClientCores:
    """The setting that all engines have.

    Example:
        >>> ClientCores(cpus_per_client=0)
        Traceback (most recent call last):
        ValueError: cpus_per_client must be at least 1, got 0
    """

    cpus_per_client: int = 1
    """CPU cores, and torch threads, of one client; the same number gives the same result on every
    engine."""

    def __post_init__(self) -> None:
        require_at_least(self, cpus_per_client=1)
