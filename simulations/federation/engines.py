"""What runs the clients: Flower's Ray simulation, or one process."""

import torch
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from simulations.federation.in_process import run_in_process
from simulations.federation.ray_engine import run_with_ray
from simulations.scenario.engines import InProcessEngine, RayEngine


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
        run_with_ray(engine, server_app, client_app, num_clients, device)
    else:
        run_in_process(server_app, client_app, num_clients)
