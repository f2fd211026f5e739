"""Clients in Ray's worker processes, by Flower's simulation."""

import logging
import os
import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from simulations.engines.base import ClientCores

GPU_SHARE = 0.125
"""Default share of a GPU for a client; leaves room for the repair, which runs in the server."""


@dataclass(frozen=True, kw_only=True)
class RayEngine(ClientCores):
    """Flower's simulation: clients run in parallel in Ray's worker processes.

    Example:
        >>> RayEngine(gpus_per_client=0.5).gpus_per_client
        0.5
    """

    gpus_per_client: float | None = None
    """Share of a GPU for one client, if clients train on one; null: an eighth."""

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
        run_simulation(
            server_app=server_app,
            client_app=client_app,
            num_supernodes=num_clients,
            backend_config={
                "client_resources": {
                    "num_cpus": min(self.cpus_per_client, cores),
                    "num_gpus": gpus if device.type == "cuda" else 0.0,
                    # Flower keeps its workers for the whole run: one that is killed comes back,
                    # and who is asked meanwhile waits for it.
                    "max_restarts": -1,
                    "max_task_retries": 2,
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
