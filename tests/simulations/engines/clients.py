"""Clients that do what a message says: they can be sent to another process."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp


class Obedient(ClientApp):
    """Answers to `train` with its process id, after doing what the message says."""

    def __init__(self) -> None:
        super().__init__()
        self.train()(obey)

    def __reduce__(self) -> Any:
        return Obedient, ()


def order(node: int, **words: str | float) -> Message:
    return Message(RecordDict({"order": ConfigRecord(words)}), node, "train")  # type: ignore[arg-type]


def obey(message: Message, context: Context) -> Message:
    match dict(message.content["order"]):  # type: ignore[arg-type]
        case {"do": "raise"}:
            raise ValueError("no data")
        case {"do": "exit"}:
            raise SystemExit(3)
        case {"do": "die"}:
            os.kill(os.getpid(), signal.SIGKILL)
        case {"do": "die once", "mark": str() as mark} if not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case {"do": "sleep", "seconds": float() as seconds}:
            time.sleep(seconds)
        case {"do": "count"}:
            seen = context.state.metric_records.get("count", MetricRecord({"n": 0}))
            context.state["count"] = MetricRecord({"n": int(seen["n"]) + 1})  # type: ignore[arg-type]
    answer = {"process": os.getpid(), "client": int(context.node_config["partition-id"])}
    content = {"answer": MetricRecord(answer)}
    if "count" in context.state:
        content["count"] = context.state.metric_records["count"]
    return Message(RecordDict(content), reply_to=message)  # type: ignore[arg-type]


class Unsendable(Obedient):
    def __reduce__(self) -> Any:
        raise TypeError("holds an open file")


class Unreadable(Obedient):
    def __reduce__(self) -> Any:
        return int, ("not a client",)
