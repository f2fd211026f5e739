"""An attack whose client is killed, as by the system when memory is short."""

import os
import signal
from dataclasses import dataclass

from simulations.attack.context import Arrays, AttackContext
from simulations.attack.malicious_clients import MaliciousClients


@dataclass(frozen=True, kw_only=True)
class Dies(MaliciousClients):
    """Its process ends in the middle of a round."""

    def craft(self, trained: Arrays, context: AttackContext) -> Arrays:
        os.kill(os.getpid(), signal.SIGKILL)
        return trained
