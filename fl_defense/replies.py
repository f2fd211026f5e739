"""What a hostile client may send, and what is done about it before aggregation.

Flower's strategies trust their replies: one NaN ruins the global model, one missing name ends the
run, one huge `num-examples` owns the average. `ReplyCheck` drops such replies and says why.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from fl_defense.records import Rejection


@dataclass(frozen=True, kw_only=True)
class CheckedReplies:
    """The replies of one round, sorted by what may be done with them."""

    valid: list[Message]
    """Replies that an aggregator can take, in the order in which they came."""
    rejected: list[Rejection]
    """Replies that were dropped, each with its node and reason."""
    num_failures: int
    """Clients that answered with an error."""


@dataclass(frozen=True, kw_only=True)
class ReplyCheck:
    """What a reply must satisfy to be aggregated.

    Raises:
        ValueError: if a bound is not positive.
    """

    max_weight_ratio: float = 10.0
    """A client may claim at most this many times the median `num-examples` of its round."""
    max_abs: float = 1e6
    """Largest absolute value that a weight may have; far above any trained network's."""

    def __post_init__(self) -> None:
        if self.max_weight_ratio < 1:
            raise ValueError(f"max_weight_ratio must be at least 1, got {self.max_weight_ratio}")
        if self.max_abs <= 0:
            raise ValueError(f"max_abs must be positive, got {self.max_abs}")

    def sort(
        self, replies: Iterable[Message], reference: ArrayRecord, weighted_by_key: str
    ) -> CheckedReplies:
        """Separate replies that can be aggregated from those that must not be.

        Args:
            replies: answers to one round of training.
            reference: the arrays that were sent out; a reply must have their names, shapes, dtypes.
            weighted_by_key: metric that weighs a reply, usually "num-examples".
        """
        valid: list[Message] = []
        rejected: list[Rejection] = []
        num_failures = 0
        shapes = {key: (tuple(array.shape), array.dtype) for key, array in reference.items()}
        for reply in replies:
            if reply.has_error():
                num_failures += 1
                continue
            reason = self._fault(reply, shapes, weighted_by_key)
            if reason is None:
                valid.append(reply)
            else:
                rejected.append(Rejection(node=reply.metadata.src_node_id, reason=reason))
        for find_faults in (_unusual_metric_keys, self._overweight):
            for reply, reason in find_faults(valid, weighted_by_key):
                valid.remove(reply)
                rejected.append(Rejection(node=reply.metadata.src_node_id, reason=reason))
        return CheckedReplies(valid=valid, rejected=rejected, num_failures=num_failures)

    def _fault(
        self,
        reply: Message,
        shapes: Mapping[str, tuple[tuple[int, ...], str]],
        weighted_by_key: str,
    ) -> str | None:
        """Return what is wrong with a reply taken by itself, or None."""
        if len(reply.content.array_records) != 1 or len(reply.content.metric_records) != 1:
            return "must hold one ArrayRecord and one MetricRecord"
        (metrics,) = reply.content.metric_records.values()
        (arrays,) = reply.content.array_records.values()
        return _metric_fault(metrics, weighted_by_key) or self._array_fault(arrays, shapes)

    def _array_fault(
        self, arrays: ArrayRecord, shapes: Mapping[str, tuple[tuple[int, ...], str]]
    ) -> str | None:
        if arrays.keys() != shapes.keys():
            return f"unexpected or missing array {sorted(arrays.keys() ^ shapes.keys())[0]!r}"
        for name, (shape, dtype) in shapes.items():
            # What the header claims is compared first: a wrong claim need not be decoded.
            array = arrays[name]
            if tuple(array.shape) != shape or array.dtype != dtype:
                return f"{name}: must be {dtype}{list(shape)}, got {array.dtype}{list(array.shape)}"
            try:
                values = array.numpy()
            except (ValueError, TypeError, OSError, EOFError, SyntaxError) as error:
                return f"{name}: cannot be decoded ({type(error).__name__})"
            if values.shape != shape or str(values.dtype) != dtype:
                return (
                    f"{name}: must be {dtype}{list(shape)}, got {values.dtype}{list(values.shape)}"
                )
            if not np.isfinite(values).all():
                return f"{name}: holds NaN or Inf"
            if values.dtype.kind == "f" and values.size and np.abs(values).max() > self.max_abs:
                return f"{name}: holds a value above {self.max_abs:g}"
        return None

    def _overweight(
        self, replies: list[Message], weighted_by_key: str
    ) -> list[tuple[Message, str]]:
        """Find replies that claim far more examples than their peers."""
        if not replies:
            return []
        weights = [weight_of(reply, weighted_by_key) for reply in replies]
        cap = self.max_weight_ratio * statistics.median(weights)
        return [
            (reply, f"{weighted_by_key} {weight:g} is above the cap of {cap:g}")
            for reply, weight in zip(replies, weights, strict=True)
            if weight > cap
        ]


def _metric_fault(metrics: MetricRecord, weighted_by_key: str) -> str | None:
    for key, value in metrics.items():
        numbers = value if isinstance(value, list) else [value]
        if not all(math.isfinite(number) for number in numbers):
            return f"metric {key!r} is not finite"
    weight = metrics.get(weighted_by_key)
    if weight is None or isinstance(weight, list):
        return f"metric {weighted_by_key!r} must be one number"
    if weight <= 0:
        return f"metric {weighted_by_key!r} must be positive, got {weight:g}"
    return None


def _unusual_metric_keys(replies: list[Message], weighted_by_key: str) -> list[tuple[Message, str]]:
    """Find replies whose metric keys differ from those of the majority; Flower would abort."""
    del weighted_by_key
    if not replies:
        return []
    keys = [frozenset(metrics_of(reply)) for reply in replies]
    usual = Counter(keys).most_common(1)[0][0]
    return [
        (reply, f"unexpected or missing metric {sorted(found ^ usual)[0]!r}")
        for reply, found in zip(replies, keys, strict=True)
        if found != usual
    ]


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
