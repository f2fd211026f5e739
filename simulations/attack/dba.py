"""DBA: each attacker plants a part of the trigger; together they plant the whole."""

from dataclasses import dataclass

from simulations.attack.badnets import BadNets
from simulations.attack.in_parts import InParts


@dataclass(frozen=True, kw_only=True)
class DBA(InParts, BadNets):
    """Each attacker stamps its own part of the trigger (Xie et al., ICLR 2020).

    Success is measured with all parts together, which nobody has stamped. Where attackers are fewer
    than parts, each has several and shares its images among them. Needs a trigger with parts, such
    as `bars`. This is the paper's multiple-shot attack; `dba-single-shot` is the other.
    """
