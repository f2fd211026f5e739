"""Replies of one round must be laid out alike, or Flower ends the run.

It wants the same names of records and metrics, and lists of the same lengths.
"""

from collections import Counter
from collections.abc import Sequence

from flwr.app import Message

Layout = list[tuple[str, str]]
"""The kind and name of everything that a reply holds besides the values, sorted."""


def layout_of(reply: Message) -> Layout:
    """Return how a reply is laid out."""
    content = reply.content
    layout = [("array record", name) for name in content.array_records]
    for name, metrics in content.metric_records.items():
        layout.append(("metric record", name))
        for key, value in metrics.items():
            kind = f"list of {len(value)} as metric" if isinstance(value, list) else "metric"
            layout.append((kind, key))
    for name, config in content.config_records.items():
        layout.append(("config record", name))
        layout += [(f"{type(value).__name__} in a config record", key)
                   for key, value in config.items()]  # fmt: skip
    return sorted(layout)


def usual_layout(
    layouts: Sequence[Layout], last: Layout | None, sent: Sequence[str] = ()
) -> Layout | None:
    """Return the layout that most replies share; None if there is no reply.

    Where several are as common, that of the round before is taken; in a first round one whose
    records are named as those that were sent, then the smallest: what a client adds is easier to do
    without than an honest client.

    Args:
        layouts: of the replies.
        last: the usual one of the round before.
        sent: names of the records of arrays that were sent out.
    """
    if not layouts:
        return None
    counts = Counter(map(tuple, layouts))
    most = max(counts.values())
    tied = sorted((list(each) for each, count in counts.items() if count == most),
                  key=lambda layout: (_strange(layout, sent), len(layout), layout))  # fmt: skip
    return last if last in tied else tied[0]


def _strange(layout: Layout, sent: Sequence[str]) -> int:
    """Return how many records of arrays have other names than those that were sent."""
    return sum(kind == "array record" and name not in sent for kind, name in layout) if sent else 0


def misfit(layout: Layout, usual: Layout) -> str | None:
    """Return what a layout has more or less than the usual one, or None."""
    if layout == usual:
        return None
    kind, name = min(set(layout) ^ set(usual), default=("names", "twice"))
    return f"unexpected or missing {kind} {name!r}"
