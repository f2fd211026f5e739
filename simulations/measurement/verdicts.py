"""What screens said of clients beside the truth, which a simulation alone knows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from simulations.measurement.measured_round import MeasuredRound


@dataclass(kw_only=True)
class Count:
    """Replies by what was said of them and what they were."""

    left_out_malicious: int = 0
    left_out_honest: int = 0
    kept_malicious: int = 0
    kept_honest: int = 0
    weight_malicious: float = 0.0
    """Sum of the weights; of a screen that leaves nobody out they alone tell what it did."""
    weight_honest: float = 0.0

    def add(self, *, weight: float, malicious: bool) -> None:
        """Count one reply."""
        kind = "malicious" if malicious else "honest"
        name = f"{'kept' if weight > 0 else 'left_out'}_{kind}"
        setattr(self, name, getattr(self, name) + 1)
        setattr(self, f"weight_{kind}", getattr(self, f"weight_{kind}") + weight)

    def to_json(self) -> dict[str, Any]:
        """Return the counts and their rates; a rate of nothing is None."""
        left_out = self.left_out_malicious + self.left_out_honest
        malicious = self.left_out_malicious + self.kept_malicious
        honest = self.left_out_honest + self.kept_honest
        return {
            "left_out_malicious": self.left_out_malicious,
            "left_out_honest": self.left_out_honest,
            "kept_malicious": self.kept_malicious,
            "kept_honest": self.kept_honest,
            "precision": _share(self.left_out_malicious, left_out),
            "recall": _share(self.left_out_malicious, malicious),
            "false_positive_rate": _share(self.left_out_honest, honest),
            "mean_weight_malicious": _share(self.weight_malicious, malicious),
            "mean_weight_honest": _share(self.weight_honest, honest),
        }


def judge(rounds: Sequence[MeasuredRound]) -> dict[str, dict[str, Any]]:
    """Return, by the class of each screen that ran, how right its verdicts were.

    A reply counts as left out by a screen that gave it the weight 0. Replies that an earlier screen
    left out were not shown to the later one and do not count there.
    """
    counts: dict[str, Count] = {}
    for each in rounds:
        for screen in each.record.details.get("screens", ()):
            count = counts.setdefault(screen["screen"], Count())
            for said in screen["verdicts"]:
                malicious = said["client"] in each.malicious
                count.add(weight=said["weight"], malicious=malicious)
    return {name: count.to_json() for name, count in counts.items()}


def suspected(measured: MeasuredRound) -> set[int]:
    """Return the clients that some screen suspected; unless it says so, by a weight below 1."""
    return {
        said["client"]
        for screen in measured.record.details.get("screens", ())
        for said in screen["verdicts"]
        if said.get("suspected", said["weight"] < 1)
    }


def left_out(measured: MeasuredRound) -> set[int]:
    """Return the clients that the screens left out of a round."""
    return _clients(measured.record.details.get("left_out", ()))


def _clients(verdicts: Iterable[dict[str, Any]]) -> set[int]:
    return {each["client"] for each in verdicts}


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
