"""Curves in TensorBoard."""

import json
from dataclasses import dataclass

from simulations.tracking.base import Sink, TrackedRun, Tracker, Values


@dataclass(frozen=True, kw_only=True)
class TensorBoard(Tracker):
    """Event files in `tensorboard` of the results folder.

    Example:
        >>> TensorBoard().needs
        ('tensorboard',)
    """

    needs = ("tensorboard",)

    def open(self, run: TrackedRun) -> Sink:
        """Begin an event file; of an earlier one all rounds that follow are dropped."""
        return _Events(run)


class _Events:
    """One event file, whose writer every round is flushed by."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        going_on = max((server_round + 1 for server_round, _ in run.finished), default=None)
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=going_on)
        if going_on is None:
            settings = "\n".join(
                f"    {field}: {json.dumps(value)}" for field, value in run.settings.items()
            )
            self._writer.add_text("scenario", settings, 0)

    def write(self, server_round: int, values: Values) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, server_round)
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        del finished
        self._writer.close()
