"""What a hostile client may send, and what is done about it before aggregation.

Flower's strategies trust their replies: one NaN ruins the global model, one missing name ends the
run, one huge `num-examples` owns the average. `ReplyCheck` drops such replies and says why.
"""

import io
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from flwr.app import Array, ArrayRecord, Message, Metadata, MetricRecord
from numpy.typing import NDArray

from fl_defense.model.wrappers import unwrapping
from fl_defense.rounds.records import Rejection
from fl_defense.validation import require_at_least, require_positive

MAX_INTEGER = 2**53
"""Largest absolute value of an integer array; beyond it an average in float64 is not exact."""
MAX_REASON = 200
"""Characters that are kept of a reason, parts of which a client has chosen."""


@dataclass(frozen=True, kw_only=True)
class CheckedReplies:
    """The replies of one round, sorted by what may be done with them."""

    valid: list[Message]
    """Replies that an aggregator can take, in the order in which they came."""
    rejected: list[Rejection]
    """Replies that were dropped, each with its node and reason."""
    failed: list[Rejection]
    """Clients that answered with an error, and its text."""


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
        require_at_least(self, max_weight_ratio=1)
        require_positive(self, "max_abs")

    def sort(
        self,
        replies: Iterable[Message],
        reference: ArrayRecord,
        weighted_by_key: str,
        asked: Mapping[str, int] = MappingProxyType({}),
    ) -> CheckedReplies:
        """Separate replies that can be aggregated from those that must not be.

        Args:
            replies: answers to one round of training.
            reference: the arrays that were sent out; a reply must have their names, in their order,
                their shapes and dtypes.
            weighted_by_key: metric that weighs a reply, usually "num-examples".
            asked: what `nodes_by_message` says of the messages that were sent.
        """
        replies = list(replies)
        failed = [
            replace(
                rejection(reply, reply.error.reason or "error without a reason"),
                node=node_of(reply, asked),
            )
            for reply in replies
            if reply.has_error()
        ]
        answers = [reply for reply in replies if not reply.has_error()]
        rejected: list[Rejection] = []
        for faults in (
            lambda left: [self._fault(reply, reference, weighted_by_key) for reply in left],
            _unusual_layouts,
            lambda left: self._overweight(left, weighted_by_key),
        ):
            found = list(zip(answers, faults(answers), strict=True))
            rejected += [rejection(reply, fault) for reply, fault in found if fault is not None]
            answers = [reply for reply, fault in found if fault is None]
        return CheckedReplies(valid=answers, rejected=rejected, failed=failed)

    def _fault(self, reply: Message, reference: ArrayRecord, weighted_by_key: str) -> str | None:
        """Return what is wrong with a reply taken by itself, or None."""
        if len(reply.content.array_records) != 1 or len(reply.content.metric_records) != 1:
            return "must hold one ArrayRecord and one MetricRecord"
        try:
            return _metric_fault(metrics_of(reply), weighted_by_key) or self._array_fault(
                arrays_of(reply), reference
            )
        except Exception as error:  # noqa: BLE001 - nothing that a client sends may stop the server
            return f"cannot be checked ({type(error).__name__}: {error})"

    def _array_fault(self, arrays: ArrayRecord, reference: ArrayRecord) -> str | None:
        if arrays.keys() != reference.keys():
            name = sorted(arrays.keys() - reference.keys() or reference.keys() - arrays.keys())[0]
            return f"unexpected or missing array {name!r}{unwrapping(name)}"
        if list(arrays) != list(reference):
            # Several strategies pair arrays by position.
            return "arrays are in another order"
        for name, like in reference.items():
            try:
                values = _decode(arrays[name], like)
            except ValueError as error:
                return f"{name}: {error}"
            if not values.size:
                continue
            if not np.isfinite(values).all():
                return f"{name}: holds NaN or Inf"
            bound = self.max_abs if values.dtype.kind in "fc" else MAX_INTEGER
            if max(abs(values.max().item()), abs(values.min().item())) > bound:
                return f"{name}: holds a value above {bound:g}"
        return None

    def _overweight(self, replies: list[Message], weighted_by_key: str) -> list[str | None]:
        """Find replies that claim far more examples than their peers."""
        weights = [weight_of(reply, weighted_by_key) for reply in replies]
        cap = self.max_weight_ratio * statistics.median(weights or [0])
        return [
            f"{weighted_by_key} {weight:g} is above the cap of {cap:g}" if weight > cap else None
            for weight in weights
        ]


def nodes_by_message(sent: Iterable[Metadata]) -> dict[str, int]:
    """Return the node that each message went to, by the message's id.

    A message has its id only after it has been sent; a grid in one process gives none.
    """
    return {each.message_id: each.dst_node_id for each in sent if each.message_id}


def node_of(reply: Message, asked: Mapping[str, int]) -> int:
    """Return the node that a reply stands for.

    When a node is gone, the SuperLink answers in its place, with an error and its own node id.
    """
    return asked.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)


def rejection(reply: Message, reason: str) -> Rejection:
    """Return the reason with the node, fit for a log: one line, printable, not too long."""
    printable = "".join(character if character.isprintable() else " " for character in reason)
    line = " ".join(printable.split())
    return Rejection(node=reply.metadata.src_node_id, reason=line[:MAX_REASON])


def _decode(array: Array, like: Array) -> NDArray[np.generic]:
    """Return an array's values; whatever it claims, no more is read than `like` would take.

    Raises:
        ValueError: if its shape or dtype differ from those of `like`, or its bytes are something
            else than they claim.
    """
    _match(array.dtype, tuple(array.shape), like)
    file = io.BytesIO(array.data)
    try:
        # The header is read first: numpy would allocate what it claims, or open a zip archive.
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(file)]
        shape, _, dtype = read_header(file)
    except (ValueError, KeyError, SyntaxError, TypeError) as error:
        raise ValueError("cannot be decoded (no header of an array)") from error
    _match(str(dtype), shape, like)
    if len(array.data) - file.tell() != dtype.itemsize * math.prod(shape):
        raise ValueError("cannot be decoded (its bytes do not fill its shape)")
    return array.numpy()


def _match(dtype: str, shape: tuple[int, ...], like: Array) -> None:
    if (dtype, shape) != (like.dtype, tuple(like.shape)):
        cure = "; send weights in the dtype in which they came" if dtype != like.dtype else ""
        wanted = f"must be {like.dtype}{list(like.shape)}"
        raise ValueError(f"{wanted}, got {dtype}{list(shape)}{cure}")


def _metric_fault(metrics: MetricRecord, weighted_by_key: str) -> str | None:
    for key, value in metrics.items():
        numbers = value if isinstance(value, list) else [value]
        # Not isfinite: a Python integer may be larger than any float.
        if not all(abs(number) <= sys.float_info.max for number in numbers):
            return f"metric {key!r} is not a finite number"
    weight = metrics.get(weighted_by_key)
    if weight is None or isinstance(weight, list):
        return f"metric {weighted_by_key!r} must be one number"
    if weight <= 0:
        return f"metric {weighted_by_key!r} must be positive, got {weight:g}"
    return None


def _unusual_layouts(replies: list[Message]) -> list[str | None]:
    """Find replies whose records or metrics are laid out unlike the majority's.

    Flower would abort the run: it wants the same names of records and metrics, and lists of the
    same lengths.
    """
    layouts = [_layout(reply) for reply in replies]
    usual = Counter(layouts).most_common(1)[0][0] if layouts else frozenset()
    return [
        f"unexpected or missing {_first(found ^ usual)}" if found != usual else None
        for found in layouts
    ]


def _layout(reply: Message) -> frozenset[tuple[str, str]]:
    """Return the kind and name of everything that a reply holds besides its arrays."""
    layout = {("record", name) for name in reply.content.array_records}
    layout |= {("record", name) for name in reply.content.metric_records}
    for name, value in metrics_of(reply).items():
        kind = f"list of {len(value)} as metric" if isinstance(value, list) else "metric"
        layout.add((kind, name))
    return frozenset(layout)


def _first(differences: frozenset[tuple[str, str]]) -> str:
    kind, name = min(differences)
    return f"{kind} {name!r}"


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
