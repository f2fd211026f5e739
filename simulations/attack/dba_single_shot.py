"""DBA's single-shot attack: each attacker replaces the model once, with its part of the trigger."""

from dataclasses import dataclass

from simulations.attack.in_parts import InParts
from simulations.attack.model_replacement import ModelReplacement


@dataclass(frozen=True, kw_only=True)
class DBASingleShot(InParts, ModelReplacement):
    """Attackers replace the model one after another, each with its part (Xie et al., ICLR 2020).

    One attack in each round, `attackers-per-round: 1`, and as many rounds as there are parts, in a
    federation that has converged. Needs a trigger with parts, such as `bars`.
    """
