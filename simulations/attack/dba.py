"""DBA: each attacker plants a part of the trigger; together they plant the whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from simulations.attack.backdoor import Backdoor
from simulations.attack.badnets import BadNets
from simulations.attack.context import AttackContext
from simulations.attack.triggers.base import PartedTrigger


@dataclass(frozen=True, kw_only=True)
class DBA(BadNets):
    """Each attacker stamps its own part of the trigger (Xie et al., ICLR 2020).

    Success is measured with all parts together, which nobody has stamped. Where attackers are fewer
    than parts, each has several and shares its images among them. Needs a trigger with parts, such
    as `bars`.
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
