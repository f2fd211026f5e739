"""What runs the clients, as a scenario names it."""

from dataclasses import dataclass

from fl_defense.validation import require_at_least


@dataclass(frozen=True, kw_only=True)
class _ClientCores:
    """What all engines are told."""

    cpus_per_client: int = 1
    """CPU cores, and torch threads, of one client; the same number gives the same result on every
    engine."""

    def __post_init__(self) -> None:
        require_at_least(self, cpus_per_client=1)


@dataclass(frozen=True, kw_only=True)
class RayEngine(_ClientCores):
    """Flower's simulation: clients run in parallel in Ray's worker processes."""

    gpus_per_client: float | None = None
    """Share of a GPU for one client, if clients train on one; null: an eighth."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus_per_client is not None and self.gpus_per_client < 0:
            raise ValueError(f"gpus_per_client must be at least 0, got {self.gpus_per_client}")


@dataclass(frozen=True, kw_only=True)
class InProcessEngine(_ClientCores):
    """One process, one client after the other: no start-up cost, easy to debug."""


Engine = RayEngine | InProcessEngine


ENGINES: dict[str, type[RayEngine] | type[InProcessEngine]] = {
    "ray": RayEngine,
    "in-process": InProcessEngine,
}
"""Engines by the name that a scenario gives."""
