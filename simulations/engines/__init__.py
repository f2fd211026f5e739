"""What runs the clients. An engine is one file; `base` is the contract."""

from simulations.engines.base import Engine
from simulations.engines.in_process import InProcessEngine
from simulations.engines.processes import ProcessesEngine
from simulations.engines.ray_engine import RayEngine

ENGINES: dict[str, type[Engine]] = {
    "processes": ProcessesEngine,
    "ray": RayEngine,
    "in-process": InProcessEngine,
}
"""Engines by the name that a scenario gives."""

__all__ = ["ENGINES", "Engine", "InProcessEngine", "ProcessesEngine", "RayEngine"]
