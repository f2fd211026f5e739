"""Attackers who learn their trigger against the model that they receive, then plant it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from simulations.attack.backdoor import Backdoor
from simulations.attack.badnets import BadNets
from simulations.attack.context import AttackContext
from simulations.attack.triggers.base import Trigger


@dataclass(frozen=True, kw_only=True)
class LearnedTrigger(BadNets, ABC):
    """A base: in each attacked round the triggers are learned first, then stamped as learned.

    What is learned stays in the attacker's memory; what is measured is the trigger of the last
    attacked round, for which the server asks an attacker.
    """

    learns_trigger: ClassVar[bool] = True
    begins_with: ClassVar[type[Trigger]]
    """Triggers that can be learned."""
    what_is_learned: ClassVar[str]
    """What of them, in a message."""

    @abstractmethod
    def learn(self, index: int, backdoor: Backdoor, context: AttackContext) -> None:
        """Learn a backdoor's trigger in this round; `context.memory` keeps it.

        Args:
            index: of the backdoor among the context's, which tells memories apart.
            backdoor: what it began as.
            context: what the attacker knows.
        """

    @abstractmethod
    def learned(
        self, index: int, backdoor: Backdoor, memory: Mapping[str, Tensor]
    ) -> Backdoor | None:
        """Return a backdoor with the trigger that a memory holds, or None if it holds none."""

    def misfits(self, backdoors: Sequence[Backdoor]) -> Iterator[str]:
        """Yield a line for each trigger that cannot be learned."""
        wanted = self.begins_with.__name__.lower()
        for backdoor in backdoors:
            if not isinstance(backdoor.trigger, self.begins_with):
                name = type(backdoor.trigger).__name__.lower()
                yield f"learns {self.what_is_learned}, got {name}; choose the trigger {wanted}"

    def measured(
        self, backdoors: Sequence[Backdoor], memory: Mapping[str, Tensor]
    ) -> tuple[Backdoor, ...]:
        """Return the backdoors with the triggers that an attacker has learned, if it has."""
        return tuple(
            self.learned(index, backdoor, memory) or backdoor
            for index, backdoor in enumerate(backdoors)
        )

    def planted(self, context: AttackContext) -> Sequence[Backdoor]:
        """Return the backdoors with the triggers learned."""
        return self.measured(context.backdoors, context.memory)

    def poison(
        self, images: Tensor, labels: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor]:
        """Learn the triggers, then stamp and relabel with them."""
        for index, backdoor in enumerate(context.backdoors):
            self.learn(index, backdoor, context)
        return super().poison(images, labels, context)
