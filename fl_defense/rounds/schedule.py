"""When to sanitize."""

from dataclasses import dataclass
from typing import Literal

from fl_defense.validation import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which rounds are repaired.

    Raises:
        ValueError: if a number is below 1.

    Example:
        >>> schedule = Schedule(first_round=2, every=2)
        >>> [number for number in range(1, 6) if schedule.is_due(number, num_rounds=5)]
        [2, 4, 5]
    """

    first_round: int = 1
    """First round that may be repaired, but for the last one; before it a model is too immature to
    gain from a repair."""
    every: int | None = 1
    """Repair each `every`-th round, counted from `first_round`; null: the last round only."""
    last: bool = True
    """Repair the last round whatever the other fields say: it is the one that is released."""
    initial: bool = False
    """Repair the model that the run begins with before any client is sent it: for a federation that
    was trained before the defense was switched on. A screen can tell who teaches a backdoor only to
    a model that does not know it yet."""
    on_suspicion: float | Literal["history", "screens"] | None = None
    """Repair a due round, but for the last, only if an inspection raises the alarm: a number, when
    it finds an anomaly above it; history, when it finds more than in earlier rounds; screens, if a
    screen suspects what it let through, and no inspection is asked; null: do not ask. For the
    trigger search 3 lies between clean models and those in which a patch turns every class, if
    images have 28 pixels or more."""
    check_every: int | None = 3
    """With on_suspicion screens: inspect the aggregate by itself in each so many rounds as well,
    and repair what exceeds the inspection's own bar: what a weak attack teaches little by little,
    no round shows as news. null: never."""

    def __post_init__(self) -> None:
        require_at_least(self, first_round=1)
        every, asked = self.every, self.on_suspicion
        require(every is None or every >= 1, "every", "at least 1 or null", every)
        check = self.check_every
        require(check is None or check >= 1, "check_every", "at least 1 or null", check)
        understood = asked in (None, "history", "screens") or (
            not isinstance(asked, str) and asked > 0
        )
        require(understood, "on_suspicion", "positive, history, screens or null", asked)
        if self.every is None and asked is not None:
            raise ValueError("on_suspicion asks of rounds that are due, but every is null: none is")
        if self.every is None and not self.last:
            raise ValueError("every is null and last is false, so no round would be repaired")

    def asks(self, server_round: int) -> bool:
        """Tell whether the model of this round is to be inspected.

        All from `first_round` on, or some of them if screens are asked first.
        """
        if self.on_suspicion is None or (server_round == 0 and not self.initial):
            return False
        if self.on_suspicion != "screens":
            return server_round == 0 or server_round >= self.first_round
        every, since = self.check_every, server_round - self.first_round + 1
        return every is not None and server_round > 0 and since > 0 and since % every == 0

    def is_due(self, server_round: int, num_rounds: int, *, alarmed: bool = False) -> bool:
        """Tell whether round `server_round` of `num_rounds`, counted from 1, is to be repaired.

        Args:
            server_round: the round, from 1; 0 is the model that the run begins with.
            num_rounds: rounds in all.
            alarmed: whether its inspection, if there was one, raised the alarm.
        """
        if server_round == 0:
            return self.initial and (alarmed or self.on_suspicion in (None, "screens"))
        if self.last and server_round == num_rounds:
            return True
        if self.every is None or server_round < self.first_round:
            return False
        if self.on_suspicion is not None and not alarmed:
            return False
        return (server_round - self.first_round) % self.every == 0
