"""Clients in Ray's worker processes, by Flower's simulation."""

import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fl_defense.validation import one_line
from simulations.engines.base import ClientCores, EngineError

GPU_SHARE = 0.125
"""Default share of a GPU for a client; leaves room for the repair, which runs in the server."""

SECONDS_TO_ANSWER = 10.0
"""How long the head of a cluster may take to answer."""


@dataclass(frozen=True, kw_only=True)
class RayEngine(ClientCores):
    """Flower's simulation: clients run in parallel in Ray's worker processes, here or on a cluster.

    Each machine of a cluster needs this package and the data set at the same place.

    Example:
        >>> RayEngine(gpus_per_client=0.5).gpus_per_client
        0.5
    """

    gpus_per_client: float | None = None
    """Share of a GPU for one client, if clients train on one; null: an eighth."""
    address: str | None = None
    """A Ray cluster that runs already, such as `10.0.0.1:6379`, or `auto` for this machine's; null:
    one is started here and ends with the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus_per_client is not None and self.gpus_per_client < 0:
            raise ValueError(f"gpus_per_client must be at least 0, got {self.gpus_per_client}")

    def run(
        self,
        server_app: ServerApp,
        client_app: ClientApp,
        num_clients: int,
        device: torch.device,
    ) -> None:
        """Run the server in this process, and the clients in Ray's workers.

        Ray reserves no GPU for clients unless `device` is one.

        Raises:
            EngineError: if no Ray cluster can be joined at `address`.
        """
        os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray announces a change of how it hides GPUs; nothing here depends on it.
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        from flwr.simulation import run_simulation
        from flwr.simulation.ray_transport.ray_actor import ClientAppActor

        # A worker that ends as it was asked to must not be asked again: Ray would tell of it.
        cast("Any", ClientAppActor).__ray_metadata__.method_meta.max_task_retries["terminate"] = 0
        gpus = GPU_SHARE if self.gpus_per_client is None else self.gpus_per_client
        cores = os.cpu_count() or 1
        with nullcontext() if self.address is None else _joined(self.address):
            # Deprecated in favour of `flwr run`, which starts processes of its own and tells
            # nobody what the server raised: in Python there is no other way, up to Flower 1.42.
            run_simulation(
                server_app=server_app,
                client_app=client_app,
                num_supernodes=num_clients,
                backend_config={
                    "client_resources": {
                        "num_cpus": min(self.cpus_per_client, cores)
                        if self.address is None
                        else self.cpus_per_client,
                        "num_gpus": gpus if device.type == "cuda" else 0.0,
                        # Flower keeps its workers for the whole run: one that is killed comes
                        # back, and who is asked meanwhile waits for it.
                        "max_restarts": -1,
                        "max_task_retries": 2,
                    },
                    # Without effect where a cluster was joined.
                    "init_args": {
                        # Never one that somebody else has started on this machine.
                        "address": "local",
                        "num_cpus": cores,
                        "logging_level": logging.ERROR,
                        "log_to_driver": False,
                        "include_dashboard": False,
                        "_node_ip_address": "127.0.0.1",
                    },
                },
            )


@contextmanager
def _joined(address: str) -> Iterator[None]:
    """Join a cluster; Flower uses it then. It stays when we leave."""
    import ray

    _check_that_somebody_answers(address)
    path = os.pathsep.join([*sys.path, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        ray.init(
            address=address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _not_joined(address, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_that_somebody_answers(address: str) -> None:
    """Say so at once if nobody does: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto`, and what Ray alone can read
    try:
        socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise _not_joined(address, error) from error


def _not_joined(address: str, error: Exception) -> EngineError:
    return EngineError(
        f"engine.address: no Ray cluster can be joined at {address} ({one_line(error)}); "
        "start one there with `ray start --head`, or leave the address out"
    )
