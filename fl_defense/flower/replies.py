"""What a hostile client may send, and what is done about it before aggregation.

Flower's strategies trust their replies: one NaN ruins the global model, one missing name ends the
run, one huge `num-examples` owns the average; replies to an evaluation are trusted as much.
`ReplyCheck` drops such replies and says why.
"""

import math
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import numpy as np
from flwr.app import ArrayRecord, Message, Metadata, MetricRecord

from fl_defense.flower.asked import match, rejection
from fl_defense.flower.decoding import decode
from fl_defense.flower.layouts import Layout, layout_of, misfit, usual_layout
from fl_defense.flower.weights import implausible_weights, weight_limit
from fl_defense.model.wrappers import unwrapping
from fl_defense.rounds.records import Rejection
from fl_defense.validation import require, require_at_least, require_positive

MAX_INTEGER = 2**53
"""Largest absolute value of an integer array; beyond it an average in float64 is not exact."""
MAX_POWER = 1e150
"""Largest power of a loss that weighs a reply: its square, which is a float still, is computed."""
COUNT = "num-examples"
"""The weight that is a count: at least 1."""

Rule = Callable[[list[Message]], Sequence[str | None]]
"""Says of each reply what is wrong with it, or None."""


@dataclass(frozen=True, kw_only=True)
class CheckedReplies:
    """The replies of one round, sorted by what may be done with them."""

    valid: list[Message]
    """Replies that an aggregator can take, in the order in which they came."""
    rejected: list[Rejection]
    """Replies that were dropped, each with its node and reason."""
    failed: list[Rejection]
    """Clients that answered with an error, and its text."""
    limited: list[Rejection] = field(default_factory=list)
    """Valid replies that count for less than they claim, each with its node and reason."""
    layout: Layout | None = None
    """How valid replies are laid out; None if there are none."""


@dataclass(frozen=True, kw_only=True)
class ReplyCheck:
    """What a reply must satisfy to be aggregated.

    Raises:
        ValueError: if a bound is not positive, or a share is not in (0, 1].

    Example:
        >>> from flwr.app import ArrayRecord
        >>> sent = ArrayRecord({})
        >>> checked = ReplyCheck(max_share=0.5).sort([], sent, "num-examples")
        >>> checked.valid, checked.rejected
        ([], [])
    """

    max_weight_ratio: float = 10.0
    """A reply may claim at most this many times the median `num-examples` of the others; it is
    dropped above."""
    max_share: float = 1 / 3
    """Largest share of a round's weight, in (0, 1], that one reply has; who claims more counts for
    this much. Twice the mean of the others is always granted. 1: no limit."""
    max_weight: float = 1e8
    """Largest `num-examples` that a client may have; a reply is dropped above."""
    max_abs: float = 1e6
    """Largest absolute value that a weight may have; far above any trained network's."""

    def __post_init__(self) -> None:
        require_at_least(self, max_weight_ratio=1)
        require_positive(self, "max_share", "max_weight", "max_abs")
        require(self.max_share <= 1, "max_share", "at most 1", self.max_share)

    def sort(
        self,
        replies: Iterable[Message],
        reference: ArrayRecord,
        weighted_by_key: str,
        *,
        sent: Sequence[Metadata] | None = None,
        last_layout: Layout | None = None,
        sent_records: Sequence[str] = (),
        non_negative: Collection[str] = (),
        losses: Mapping[str, float] = MappingProxyType({}),
    ) -> CheckedReplies:
        """Separate replies to a round of training that can be aggregated from those that must not.

        The weight of a reply that claims too large a share is lowered in its metrics.

        Args:
            replies: answers to one round of training.
            reference: the arrays that were sent out; a reply must have their names, in their order,
                their shapes and dtypes.
            weighted_by_key: metric that weighs a reply, usually "num-examples".
            sent: of the messages that were sent; None: whoever replies was asked.
            last_layout: `CheckedReplies.layout` of the round before.
            sent_records: names of the records of arrays that were sent; where layouts are equally
                common and there was no round before, one of these names is taken.
            non_negative: arrays that hold no value below 0, such as variances.
            losses: metrics that weigh replies too, each with the power of it that does: they must
                be one number, not negative, and no more times the others' than a weight.
        """

        def fault(reply: Message) -> str | None:
            content = reply.content
            if len(content.array_records) != 1 or len(content.metric_records) != 1:
                return "must hold one ArrayRecord and one MetricRecord"
            return _metric_fault(metrics_of(reply), weighted_by_key, losses) or self._array_fault(
                arrays_of(reply), reference, non_negative
            )

        rules = [partial(self._implausible_losses, key, power) for key, power in losses.items()]
        return self._sort(replies, fault, weighted_by_key, sent, last_layout, rules, sent_records)

    def sort_evaluations(
        self,
        replies: Iterable[Message],
        weighted_by_key: str,
        *,
        sent: Sequence[Metadata] | None = None,
        last_layout: Layout | None = None,
    ) -> CheckedReplies:
        """Separate replies to a round of evaluation likewise; they need hold no arrays."""

        def fault(reply: Message) -> str | None:
            if len(reply.content.metric_records) != 1:
                return "must hold one MetricRecord"
            return _metric_fault(metrics_of(reply), weighted_by_key, {})

        return self._sort(replies, fault, weighted_by_key, sent, last_layout, ())

    def _sort(
        self,
        replies: Iterable[Message],
        fault: Callable[[Message], str | None],
        weighted_by_key: str,
        sent: Sequence[Metadata] | None,
        last_layout: Layout | None,
        more_rules: Iterable[Rule],
        sent_records: Sequence[str] = (),
    ) -> CheckedReplies:
        matched = match(replies, sent)
        answers, rejected = matched.answers, matched.strays
        usual: Layout | None = None

        def unusual(left: list[Message]) -> list[str | None]:
            nonlocal usual
            layouts = [layout_of(reply) for reply in left]
            usual = usual_layout(layouts, last_layout, sent_records)
            return [misfit(layout, usual or []) for layout in layouts]

        def implausible(left: list[Message]) -> list[str | None]:
            return implausible_weights(
                [weight_of(reply, weighted_by_key) for reply in left],
                name=weighted_by_key,
                max_weight=self.max_weight,
                max_ratio=self.max_weight_ratio,
            )

        rules: list[Rule] = [lambda left: [_guarded(fault, reply) for reply in left],
                             unusual, implausible, *more_rules]  # fmt: skip
        for rule in rules:
            found = list(zip(answers, rule(answers), strict=True))
            rejected += [rejection(reply, reason) for reply, reason in found if reason is not None]
            answers = [reply for reply, reason in found if reason is None]
        return CheckedReplies(
            valid=answers,
            rejected=rejected,
            failed=matched.failed,
            limited=self._limit(answers, weighted_by_key),
            layout=usual,
        )

    def _implausible_losses(
        self, key: str, power: float, replies: list[Message]
    ) -> list[str | None]:
        # As in QFedAvg, which weighs by a power of the loss.
        return implausible_weights(
            [(weight_of(reply, key) + 1e-10) ** power for reply in replies],
            name=f"weight by {key!r}",
            max_weight=math.inf,
            max_ratio=self.max_weight_ratio,
        )

    def _limit(self, replies: list[Message], weighted_by_key: str) -> list[Rejection]:
        """Lower weights above the limit in place; return whose, and how to keep them."""
        weights = [weight_of(reply, weighted_by_key) for reply in replies]
        limit, total = weight_limit(weights, self.max_share), sum(weights)
        limited = []
        for reply, weight in zip(replies, weights, strict=True):
            if weight > limit:
                (name,) = reply.content.metric_records
                lowered = {**metrics_of(reply), weighted_by_key: limit}
                reply.content[name] = MetricRecord(lowered)
                reason = (
                    f"{weighted_by_key} {weight:g} counts as {limit:g}; "
                    f"ReplyCheck(max_share={weight / total:.3g}) would admit it"
                )
                limited.append(rejection(reply, reason))
        return limited

    def _array_fault(
        self, arrays: ArrayRecord, reference: ArrayRecord, non_negative: Collection[str]
    ) -> str | None:
        if arrays.keys() != reference.keys():
            name = sorted(arrays.keys() - reference.keys() or reference.keys() - arrays.keys())[0]
            cure = unwrapping(name)
            if arrays.keys() < reference.keys():
                cure = "; to federate a part of the model, let initial_arrays hold that part alone"
            elif arrays.keys() > reference.keys():
                cure = cure or "; send back the arrays that were sent, and no others"
            return f"unexpected or missing array {name!r}{cure}"
        if list(arrays) != list(reference):
            # Several strategies pair arrays by position.
            return "arrays are in another order"
        for name, like in reference.items():
            try:
                values = decode(arrays[name], like)
            except ValueError as error:
                return f"{name}: {error}"
            if not values.size:
                continue
            # NaN is the least and the greatest of all that it is among; a complex number is not.
            least, greatest = values.min(), values.max()
            extremes = values if values.dtype.kind == "c" else np.stack([least, greatest])
            if not np.isfinite(extremes).all():
                return f"{name}: holds NaN or Inf"
            bound = self.max_abs if values.dtype.kind in "fc" else MAX_INTEGER
            if max(abs(greatest.item()), abs(least.item())) > bound:
                return f"{name}: holds a value above {bound:g}"
            if name in non_negative and least < 0:
                return f"{name}: holds a value below 0"
        return None


def _guarded(fault: Callable[[Message], str | None], reply: Message) -> str | None:
    try:
        return fault(reply)
    except Exception as error:  # noqa: BLE001 - nothing that a client sends may stop the server
        return f"cannot be checked ({type(error).__name__}: {error})"


def _metric_fault(
    metrics: MetricRecord, weighted_by_key: str, losses: Mapping[str, float]
) -> str | None:
    for key, value in metrics.items():
        numbers = value if isinstance(value, list) else [value]
        # Not isfinite: a Python integer may be larger than any float.
        if not all(abs(number) <= sys.float_info.max for number in numbers):
            return f"metric {key!r} is not a finite number"
    for key in (weighted_by_key, *losses):
        if isinstance(metrics.get(key), bool | list | None):
            return f"metric {key!r} must be one number"
    weight = float(metrics[weighted_by_key])  # type: ignore[arg-type]
    if weight <= 0:
        return f"metric {weighted_by_key!r} must be positive, got {weight:g}"
    if weighted_by_key == COUNT and weight < 1:
        return f"metric {weighted_by_key!r} must be at least 1, got {weight:g}"
    for key, power in losses.items():
        loss = float(metrics[key])  # type: ignore[arg-type]
        if loss < 0:
            return f"metric {key!r} must not be negative, got {loss:g}"
        # Not the power itself: Python raises where a float overflows.
        if power * math.log(loss + 1e-10) > math.log(MAX_POWER):
            return (
                f"metric {key!r} is too large to weigh a reply by its power {power:g}, got {loss:g}"
            )
    return None


def arrays_of(reply: Message) -> ArrayRecord:
    """Return the arrays of a checked reply."""
    (arrays,) = reply.content.array_records.values()
    return arrays


def metrics_of(reply: Message) -> MetricRecord:
    """Return the metrics of a checked reply."""
    (metrics,) = reply.content.metric_records.values()
    return metrics


def weight_of(reply: Message, weighted_by_key: str) -> float:
    """Return by how much a checked reply is weighed."""
    weight = metrics_of(reply)[weighted_by_key]
    assert not isinstance(weight, list)
    return float(weight)
