"""The table of rounds, one line each."""

from collections.abc import Iterable, Sequence

from simulations.measurement.measured_round import MeasuredRound
from simulations.measurement.verdicts import left_out
from simulations.metrics import Metric, columns, metrics_named

ARROW = " → "


def header(metrics: Sequence[Metric] = ()) -> str:
    """Return the heads of the columns, those of metrics beside the standard ones included."""
    heads = [_head(metric) for metric in columns(metrics).values()]
    return "  ".join(["round", *heads, "agreement", "replies", "train s", "repair s"])


def row(measured: MeasuredRound, metrics: Sequence[Metric] = ()) -> str:
    """Return a round as a line under the header, which ends in a refusal, failure or verdict."""
    record = measured.record
    agreement = "-" if record.agreement is None else f"{record.agreement:.3f}"
    dropped = record.num_rejected + record.num_left_out + record.num_failures
    replies = f"{record.num_replies} -{dropped}" if dropped else f"{record.num_replies}"
    cells = [f"{measured.round:5}"]
    for name, metric in columns(metrics).items():
        rates = ARROW.join(f"{rate(measured.rate(stage, name)):5}" for stage in metric.in_table)
        cells.append(f"{rates:>{len(_head(metric))}}")
    cells += [f"{agreement:>9}", f"{replies:>7}", f"{record.train_seconds:7.1f}"]
    return "  ".join([*cells, f"{record.sanitize_seconds:8.1f}{_note(measured)}"])


def metrics_of(rounds: Iterable[MeasuredRound]) -> Sequence[Metric]:
    """Return the metrics that rounds were measured by, the standard ones first."""
    names = (name for each in rounds for rates in each.rates.values() for name in rates)
    return tuple(metrics_named(names).values())


def rate(value: float | None) -> str:
    """Return a rate with three digits, or a dash if it was not measured."""
    return "-" if value is None else f"{value:.3f}"


def _head(metric: Metric) -> str:
    if len(metric.in_table) == 1:
        return metric.column
    return f"{metric.column} before{ARROW}after"


def _note(measured: MeasuredRound) -> str:
    record, note = measured.record, ""
    if gone := left_out(measured):
        note = f"  left out: {', '.join(map(str, sorted(gone)))}"
    if "kept_sent" in record.details:
        earlier = record.details.get("sent_again")
        what = "model stays" if earlier is None else f"model of round {earlier} again"
        note = f"  {what}: {record.details['kept_sent']}"
    if record.sanitized and not record.accepted:
        note += f"  {record.details.get('refused') or record.details.get('failure') or 'refused'}"
    if record.verdict is not None:
        note += f"  {record.verdict}"
    success = measured.rate("unpurified", "attack_success_rate")
    return note if success is None else f"{note}  ASR without purifier {rate(success)}"
