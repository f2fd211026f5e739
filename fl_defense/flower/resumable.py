"""How a run begins, goes on after a crash, and ends, whatever happens in its rounds."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fl_defense.flower.arrays import check_arrays
from fl_defense.flower.checkpoint import Carried, Checkpoint, CheckpointFile
from fl_defense.flower.inner_strategies import wrapped_strategies
from fl_defense.flower.packing import CheckpointError
from fl_defense.flower.partial import Part
from fl_defense.log import logger


class ResumableStrategy(Strategy):
    """Wraps a strategy; keeps what a run carries from round to round, and a checkpoint of it.

    Args:
        strategy: the wrapped one.
        part: what of the global model is federated.
        checkpoint_file: replaced after every round.
    """

    def __init__(
        self, strategy: Strategy, part: Part, checkpoint_file: CheckpointFile | None
    ) -> None:
        self.strategy, self.part, self.checkpoint_file = strategy, part, checkpoint_file
        self.num_rounds = 0
        """Of the run, finished ones included."""
        self._carried = Carried()
        self._num_finished = 0
        """Rounds that a resumed run lets pass by."""

    @abstractmethod
    def _check_part(self) -> None:
        """Refuse a part that cannot be repaired; the message says why."""

    @abstractmethod
    def _begin(self, initial_arrays: ArrayRecord) -> None:
        """Take in the model that a run begins with."""

    @property
    def released(self) -> ArrayRecord | None:
        """The model that would be released now; None before the first aggregation."""
        return self._carried.released

    def resume(self, checkpoint: Checkpoint) -> None:
        """Let `start` go on after the round that a checkpoint holds.

        Call it before `start`, on a strategy made with the same settings. `start` then lets the
        finished rounds pass by without asking a client; its result holds the figures of the others.

        Raises:
            CheckpointError: if the checkpoint was written by other strategies or for another model.
        """
        carried = checkpoint.carried
        for arrays in (carried.arrays, carried.released, *carried.earlier):
            try:
                if arrays is not None:
                    check_arrays(arrays, self.part.spec, "checkpoint")
            except ValueError as error:
                raise CheckpointError(str(error)) from error
        checkpoint.bring_back(wrapped_strategies(self.strategy))
        self._carried = carried
        self._num_finished = carried.round

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        **kwargs: Any,
    ) -> Result:
        """Run the federation; the arguments are Flower's, later ones are passed on.

        Args:
            grid: the clients.
            initial_arrays: the model to begin with, or the part of it that is federated; after
                `resume` the values are those of the checkpoint.
            num_rounds: rounds in all, finished ones included.
            timeout: seconds to wait for the replies of a round.
            train_config: sent to clients with every round of training.
            evaluate_config: sent to clients with every evaluation.
            evaluate_fn: given the number of each round and the arrays that clients are sent, or
                with `evaluate_released` the released ones.
            **kwargs: what later versions of Flower take.

        Raises:
            ValueError: if `initial_arrays` are not of the model that `spec` builds, what they leave
                out is known from nowhere, or the defense has nothing to change in them.
            CheckpointError: if a resumed run federated other arrays, or had another `base`.
        """
        self._take_part(initial_arrays)
        self.num_rounds = num_rounds
        finished = self._num_finished
        if finished == 0:
            self._carried = Carried(rest=self.part.digest())
            self._begin(initial_arrays)
        else:
            self._check_resumed(initial_arrays)

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            if evaluate_fn is None or 0 < finished >= server_round:
                return None
            return evaluate_fn(server_round, self._to_evaluate(arrays))

        result = super().start(
            grid,
            self._carried.arrays or initial_arrays,
            num_rounds,
            timeout,
            train_config,
            evaluate_config,
            evaluate if evaluate_fn else None,
            **kwargs,
        )
        if self.released is None:
            logger.error("no round gave a model: the result holds the one that was sent out")
            result.arrays = self._carried.arrays or initial_arrays
        else:
            result.arrays = self.released
        return result

    @abstractmethod
    def _to_evaluate(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return what evaluations measure where Flower would measure what clients are sent."""

    def _take_part(self, arrays: ArrayRecord) -> None:
        """Take these arrays for what is federated, if they can be repaired."""
        self.part.begin(arrays)
        self._check_part()

    def _check_resumed(self, initial_arrays: ArrayRecord) -> None:
        arrays = self._carried.arrays
        if arrays is not None and list(arrays) != list(initial_arrays):
            raise CheckpointError(
                f"checkpoint: of a run that federated {len(arrays)} arrays, got other "
                f"initial_arrays ({len(initial_arrays)}); give the names that it began with"
            )
        if self._carried.rest != self.part.digest():
            raise CheckpointError(
                "checkpoint: of a run with other values in what is not federated; give the `base` "
                "that it was written with, or start the run anew"
            )

    def _finish(self, server_round: int) -> None:
        self._carried.round = server_round
        if self.checkpoint_file is not None:
            strategies = wrapped_strategies(self.strategy)
            self.checkpoint_file.write(Checkpoint.take(self._carried, strategies))
