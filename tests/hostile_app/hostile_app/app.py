"""Honest clients add 1 to every weight; the one of partition 2 does something else each round."""

import os
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

TIMEOUT_SECONDS = 45.0

server = ServerApp()
client = ClientApp()


def lie(server_round: int, arrays: ArrayRecord, metrics: MetricRecord) -> None:
    name = next(iter(arrays))
    values = arrays[name].numpy()
    match server_round:
        case 1:
            arrays[name] = Array(values * np.float32("nan"))
        case 2:
            arrays[name] = Array(values[None])
        case 3:
            arrays[name] = Array("float32", values.shape, "numpy.ndarray", b"\x93NUMPY broken")
        case 4:
            metrics["num-examples"] = 10**12
        case 5:
            metrics["extra"] = 1.0
        case 6:
            raise MemoryError("too big")
        case _:
            os._exit(1)


@client.train()
def train(message: Message, context: Context) -> Message:
    received = message.content.array_records["arrays"]
    arrays = ArrayRecord({name: Array(each.numpy() + 1) for name, each in received.items()})
    metrics = MetricRecord({"num-examples": 10})
    if context.node_config["partition-id"] == 2:
        lie(int(message.content.config_records["config"]["server-round"]), arrays, metrics)  # type: ignore[arg-type]
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    # Imported here: clients load this module too, and start quickly without torch.
    from dataclasses import replace

    import torch
    from flwr.serverapp.strategy import FedAvg

    from fl_defense import ModelSpec, SanitizingStrategy
    from fl_defense.rounds.records import RoundOutcome, append_record
    from fl_defense.sanitizers import NoDefense

    out = Path(str(context.run_config["out"]))
    out.mkdir(parents=True)

    def observe(outcome: RoundOutcome) -> None:
        lost = [each.reason for each in (*outcome.rejections, *outcome.failures)]
        append_record(out / "rounds.jsonl", replace(outcome.record, details={"lost": lost}))

    def build() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    strategy = SanitizingStrategy(
        FedAvg(min_train_nodes=3, min_available_nodes=3, fraction_evaluate=0.0),
        NoDefense(),
        ModelSpec(build=build, input_shape=(1, 8, 8), num_classes=10),
        observe=observe,
        device="cpu",
    )
    zeros = {name: value * 0 for name, value in build().state_dict().items()}
    result = strategy.start(grid, ArrayRecord(zeros), num_rounds=7, timeout=TIMEOUT_SECONDS)
    (out / "weights.txt").write_text(
        " ".join(str(float(array.numpy().mean())) for array in result.arrays.values())
    )
