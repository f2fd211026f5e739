"""Which model clients are sent, which one is released, and which one repairs refer to."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from flwr.app import Array, ArrayRecord
from torch import nn

from fl_defense.flower.arrays import load_model, model_arrays
from fl_defense.flower.checkpoint import Carried
from fl_defense.log import logger
from fl_defense.rounds.repairer import RepairOutcome
from fl_defense.screens.base import EarlierModel
from fl_defense.validation import require, require_word

Broadcast = Literal["auto", "repaired", "aggregate"]


class Broadcasting:
    """Reads and sets the models that a run carries from round to round.

    Args:
        broadcast: what clients are sent; "auto": the repaired model if replies are screened.
        screens: whether they are.
        reference_age: rounds since the reference was sent, at least 1; None: there is none.
        template: a model of the architecture.
        device: where models go.
        evaluates_released: whether evaluations measure the released model instead of the sent one.

    Raises:
        ValueError: if `broadcast` is none of its words, `reference_age` is below 1, or clients are
            not sent what would be the reference.
    """

    def __init__(
        self,
        broadcast: Broadcast,
        *,
        screens: bool,
        reference_age: int | None,
        template: nn.Module,
        device: torch.device,
        evaluates_released: bool = False,
    ) -> None:
        require_word("broadcast", Broadcast, broadcast)
        self.sends_repaired = broadcast == "repaired" or (broadcast == "auto" and screens)
        """Whether clients train on the repaired model."""
        age = reference_age
        require(age is None or age >= 1, "reference_age", "at least 1 or None", age)
        if age is not None and not self.sends_repaired:
            raise ValueError(
                "reference_age: a reference must be clean, but clients are sent the aggregate; "
                'give broadcast="repaired", or leave reference_age out'
            )
        self.reference_age, self.template, self.device = age, template, device
        self.evaluates_released = evaluates_released
        self._has_warned = False

    def to_evaluate(self, carried: Carried, arrays: ArrayRecord) -> ArrayRecord:
        """Return the arrays that evaluations measure."""
        if carried.released is None or self.sends_repaired or not self.evaluates_released:
            return arrays
        return carried.released

    def warn_of_evaluation(self, carried: Carried) -> None:
        """Say, once, if what is evaluated is not the repaired model."""
        repaired = carried.released is None or self.sends_repaired or self.evaluates_released
        if not repaired and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "evaluations measure the model that clients are sent, which is not the repaired "
                "one; evaluate_released=True measures what is released"
            )

    def load(self, arrays: ArrayRecord) -> nn.Module:
        """Return the model of these arrays, in eval mode."""
        return load_model(arrays, self.template, self.device)

    def previous(self, carried: Carried) -> Callable[[], nn.Module]:
        """Return what makes the model that was released last.

        Before the first release it is the one that was sent: the arrays carried on may never have
        been repaired.
        """
        last = carried.released if carried.released is not None else carried.arrays
        assert last is not None
        return partial(self.load, last)

    def kept(self, carried: Carried) -> tuple[nn.Module, nn.Module]:
        """Return the model that clients go on from, and the one that stays released."""
        assert carried.arrays is not None
        sent = self.load(carried.arrays)
        return sent, sent if carried.released is None else self.load(carried.released)

    def reference(self, server_round: int, carried: Carried) -> Callable[[], nn.Module] | None:
        """Return what makes the reference of a round's repair, if there is one."""
        if self.reference_age is None or server_round == 1:
            return None
        return partial(self.load, self._sent_so_far(carried)[0])

    def hand_on(
        self, carried: Carried, outcome: RepairOutcome, suspect: nn.Module, aggregate: ArrayRecord
    ) -> nn.Module:
        """Carry on what became of an aggregate, and return the model that clients are sent."""
        others = (self.reference_age or 1) - 1
        carried.repair = outcome.state
        carried.earlier = self._sent_so_far(carried)[-others:] if others else []
        carried.released = model_arrays(outcome.model, aggregate)
        carried.arrays = carried.released if self.sends_repaired else aggregate
        return outcome.model if self.sends_repaired else suspect

    def go_back(self, carried: Carried, earlier: EarlierModel) -> None:
        """Carry on a model of an earlier round as the one that is sent and released."""
        assert carried.arrays is not None
        arrays = {name: Array(earlier.arrays[name].numpy()) for name in carried.arrays}
        carried.arrays = carried.released = ArrayRecord(arrays)
        # What was sent since then is what one goes back from: no reference.
        carried.earlier = []

    def _sent_so_far(self, carried: Carried) -> list[ArrayRecord]:
        """Return the models sent out that a reference may be, the oldest first."""
        assert carried.arrays is not None
        return [*carried.earlier, carried.arrays][-(self.reference_age or 1) :]
