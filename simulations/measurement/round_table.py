"""The table of rounds, one line each."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing it takes torch, for which the command line's help should not wait
    from fl_defense.rounds.records import RoundRecord


HEADER = "round  accuracy  robust  ASR before → after  agreement  replies  train s  repair s"


def row(record: "RoundRecord") -> str:
    """Return a round as a line under `HEADER`; a refused or failed repair is told at its end."""
    agreement = "        -" if record.agreement is None else f"{record.agreement:9.3f}"
    note = ""
    if record.sanitized and not record.accepted:
        note = f"  {record.details.get('refused') or record.details.get('failure') or 'refused'}"
    if record.attack_success_rate_unpurified is not None:
        note += f"  ASR without purifier {rate(record.attack_success_rate_unpurified)}"
    dropped = record.num_rejected + record.num_failures
    lost = f" -{dropped}" if dropped else "   "
    return (
        f"{record.round:5}  {rate(record.accuracy):>8}  {rate(record.robust_accuracy):>6}  "
        f"{rate(record.attack_success_rate_before):>10} → {rate(record.attack_success_rate):<5}  "
        f"{agreement}  {record.num_replies:4}{lost}  {record.train_seconds:7.1f}  "
        f"{record.sanitize_seconds:8.1f}{note}"
    )


def rate(value: float | None) -> str:
    """Return a rate with three digits, or a dash if it was not measured."""
    return "-" if value is None else f"{value:.3f}"
