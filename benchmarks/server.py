"""What the defense costs a server beside the strategy that it wraps: CPU time and memory.

    python -m benchmarks.server
    python -m benchmarks.server --weights 5000000 --replies 10 50

Flower's FedAvg aggregates the same replies alone, wrapped without a repair, and wrapped with norm
clipping and with a checkpoint; each in a process of its own. Rows go into results/server.json: CPU
seconds and the peak of memory in models above what the process held with its replies, and both as
ratios to FedAvg's.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import nn

from benchmarks import RESULTS
from benchmarks.rows import provenance, write
from fl_defense import CheckpointFile, ModelSpec, NoDefense, SanitizingStrategy, Schedule
from fl_defense.screens import NormClipping
from simulations.engines.local_grid import set_task_identity

KINDS = ("fedavg", "wrapped", "wrapped, norm clipping", "wrapped, checkpoint")
LAYERS = 8
"""Equal layers that the weights are shared among."""


class Nodes(Grid):
    """Only tells which nodes there are."""

    def __init__(self, count: int) -> None:
        self._ids = list(range(1, count + 1))

    def get_node_ids(self) -> list[int]:
        """Return 1..n."""
        return self._ids

    def set_run(self, run: Any) -> None:
        """Do nothing."""

    @property
    def run(self) -> Any:
        """There is none."""
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Any:
        """Not asked for."""

    def push_messages(self, messages: Any) -> Any:
        """Not asked for."""

    def pull_messages(self, message_ids: Any) -> Any:
        """Not asked for."""

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        """Not asked for."""


class Wide(nn.Module):
    """Linear layers of a given total size behind the mean of an image: answers cost nothing."""

    def __init__(self, weights: int) -> None:
        super().__init__()
        side = max(2, round((weights / LAYERS) ** 0.5))
        self.first = nn.Linear(1, side)
        self.layers = nn.Sequential(*(nn.Linear(side, side) for _ in range(LAYERS)))
        self.last = nn.Linear(side, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Classify images (B, C, H, W)."""
        logits: torch.Tensor = self.last(self.layers(self.first(inputs.mean((1, 2, 3))[:, None])))
        return logits


def main() -> None:
    """Measure, write JSON, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=int, default=50_000_000)
    parser.add_argument("--replies", type=int, nargs="+", default=[10])
    parser.add_argument("--out", type=Path, default=RESULTS / "server.json")
    arguments = parser.parse_args()
    rows = []
    for replies in arguments.replies:
        measured = {kind: in_own_process(kind, arguments.weights, replies) for kind in KINDS}
        alone = measured["fedavg"]
        for kind, row in measured.items():
            row["cpu_ratio"] = row["cpu_seconds"] / alone["cpu_seconds"]
            row["memory_ratio"] = row["peak_models"] / alone["peak_models"]
            row |= {"weights": arguments.weights, "replies": replies} | provenance()
            rows.append({"kind": kind, **row})
    write(arguments.out, rows)
    sys.stdout.write(table(rows) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Return the markdown table."""
    head = "| replies | strategy | CPU s | times FedAvg | peak, models | times FedAvg |"
    lines = [
        f"| {row['replies']} | {row['kind']} | {row['cpu_seconds']:.1f} | {row['cpu_ratio']:.2f} "
        f"| {row['peak_models']:.1f} | {row['memory_ratio']:.2f} |"
        for row in rows
    ]
    return "\n".join([head, "|" + "---|" * 6, *lines])


def in_own_process(kind: str, weights: int, replies: int) -> dict[str, float]:
    """Measure in a process that has done nothing else."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measure, (kind, weights, replies))


def measure(kind: str, weights: int, num_replies: int) -> dict[str, float]:
    """Aggregate two rounds; return the figures of the second, in which everything is warm."""
    torch.set_num_threads(1)
    set_task_identity()
    with tempfile.TemporaryDirectory() as folder:
        strategy = build(kind, weights, num_replies, Path(folder))
        model = Wide(weights)
        sent = ArrayRecord(model.state_dict())
        nodes = Nodes(num_replies)
        seconds = 0.0
        for server_round in (1, 2):
            asked = strategy.configure_train(server_round, sent, ConfigRecord({}), nodes)
            replies = [answer(message, model) for message in asked]
            started = time.process_time()
            aggregated, _ = strategy.aggregate_train(server_round, replies)
            seconds = time.process_time() - started
            assert aggregated is not None
            sent = aggregated
    size = sum(parameter.numel() for parameter in model.parameters()) * 4
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"cpu_seconds": seconds, "peak_models": peak / size}


def build(kind: str, weights: int, num_replies: int, folder: Path) -> Strategy:
    """Return what is measured."""
    inner = FedAvg(min_train_nodes=num_replies, min_available_nodes=num_replies,
                   fraction_evaluate=0.0)  # fmt: skip
    if kind == "fedavg":
        return inner
    spec = ModelSpec(build=lambda: Wide(weights), input_shape=(1, 8, 8), num_classes=10)
    file = CheckpointFile(path=folder / "checkpoint") if "checkpoint" in kind else None
    screens = [NormClipping()] if "clipping" in kind else []
    never = Schedule(every=None)
    strategy = SanitizingStrategy(
        inner, NoDefense(), spec, screens=screens, schedule=never, checkpoint_file=file
    )
    strategy.num_rounds = 100
    return strategy


def answer(message: Message, model: nn.Module) -> Message:
    """Return a client's reply: the model, with nothing learned."""
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": 10, "train-loss": 0.5}),
        }
    )
    return Message(content, reply_to=message)


if __name__ == "__main__":
    main()
