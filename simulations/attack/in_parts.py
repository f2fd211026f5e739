"""A trigger dealt out in parts: what the distributed attacks have in common."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from simulations.attack.backdoor import Backdoor
from simulations.attack.context import AttackContext
from simulations.attack.data_poisoning import DataPoisoning
from simulations.attack.triggers.base import PartedTrigger


@dataclass(frozen=True, kw_only=True)
class InParts(DataPoisoning):
    """Each attacker stamps its own part of the trigger; success is measured with all together.

    Where attackers are fewer than parts, each has several and shares its images among them.
    """

    def misfits(self, backdoors: Sequence[Backdoor]) -> Iterator[str]:
        """Yield a line for each trigger that cannot be taken apart."""
        for backdoor in backdoors:
            if not isinstance(backdoor.trigger, PartedTrigger):
                name = type(backdoor.trigger).__name__.lower()
                yield f"needs a trigger with parts, got {name}; choose the trigger bars"

    def planted(self, context: AttackContext) -> Sequence[Backdoor]:
        """Return this client's pieces, dealt out in turn: those of all clients are all of them."""
        place, num_clients = context.malicious.index(context.partition), len(context.malicious)
        planted = []
        for backdoor in context.backdoors:
            assert isinstance(backdoor.trigger, PartedTrigger)
            pieces = self.pieces(backdoor.trigger.num_parts)
            own = (
                [pieces[place % len(pieces)]]
                if num_clients > len(pieces)
                else pieces[place::num_clients]
            )
            planted += [replace(backdoor, trigger=backdoor.trigger.only(piece)) for piece in own]
        return planted

    def pieces(self, num_parts: int) -> list[tuple[int, ...]]:
        """Return the sets of parts that attackers stamp: each part alone."""
        return [(part,) for part in range(num_parts)]
