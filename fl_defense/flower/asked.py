"""Which reply answers which message: each message once, by the node that it was sent to.

Flower aggregates whatever a grid hands over: a second reply counts twice, and one to a message of
an earlier round, of another type, or of a node that nobody asked counts like any other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Message, Metadata

from fl_defense.rounds.records import Rejection

MAX_REASON = 200
"""Characters that are kept of a reason, parts of which a client has chosen."""


@dataclass(frozen=True, kw_only=True)
class MatchedReplies:
    """The replies of one round by what they are to its messages."""

    answers: list[Message] = field(default_factory=list)
    """The first reply to each message, in the order in which they came."""
    failed: list[Rejection] = field(default_factory=list)
    """Clients that answered with an error, and its text."""
    strays: list[Rejection] = field(default_factory=list)
    """Replies that answer none of the messages, or one that was answered already."""


def match(replies: Iterable[Message], sent: Sequence[Metadata] | None) -> MatchedReplies:
    """Match replies with the messages that were sent; None: nothing is known of these.

    Where two replies come to one message the first counts: nothing tells which is the client's.
    """
    matched = MatchedReplies()
    nodes = nodes_by_message(sent or ())
    open_messages: dict[tuple[str, int], list[Metadata]] = {}
    for metadata in sent or ():
        key = metadata.message_id, metadata.dst_node_id
        open_messages.setdefault(key, []).append(metadata)
    for reply in replies:
        if not reply.has_error() and not reply.has_content():
            matched.strays.append(rejection(reply, "holds neither records nor an error"))
            continue
        node = node_of(reply, nodes) if reply.has_error() else reply.metadata.src_node_id
        key = reply.metadata.reply_to_message_id, node
        fault = None if sent is None else _stray(reply, key, open_messages)
        if reply.has_error() and (fault is None or key not in open_messages):
            reason = reply.error.reason or "error without a reason"
            matched.failed.append(Rejection(node=node, reason=printable(reason)))
        elif fault is not None:
            matched.strays.append(rejection(reply, fault))
            continue
        else:
            matched.answers.append(reply)
        if open_messages.get(key):
            open_messages[key].pop()
    return matched


def _stray(
    reply: Message, key: tuple[str, int], open_messages: Mapping[tuple[str, int], list[Metadata]]
) -> str | None:
    """Return why a reply answers none of the messages that still have no answer, or None."""
    if key not in open_messages:
        if any(node == key[1] for _, node in open_messages):
            return "answers a message that is not of this round"
        return "was not asked in this round"
    if not open_messages[key]:
        return "is a second reply to one message"
    asked, got = open_messages[key][0], reply.metadata
    if got.message_type != asked.message_type:
        return f"is of type {got.message_type!r}, asked was {asked.message_type!r}"
    if got.dst_node_id != asked.src_node_id:
        return f"is addressed to node {got.dst_node_id}, not to the server"
    if got.run_id != asked.run_id:
        return f"belongs to run {got.run_id}"
    return None


def nodes_by_message(sent: Iterable[Metadata]) -> dict[str, int]:
    """Return the node that each message went to, by the message's id.

    A message has its id only after it has been sent; some grids in one process give none.
    """
    return {each.message_id: each.dst_node_id for each in sent if each.message_id}


def node_of(reply: Message, asked: Mapping[str, int]) -> int:
    """Return the node that a reply stands for.

    When a node is gone, the SuperLink answers in its place, with an error and its own node id.
    """
    return asked.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)


def rejection(reply: Message, reason: str) -> Rejection:
    """Return the reason with the reply's node, fit for a log."""
    return Rejection(node=reply.metadata.src_node_id, reason=printable(reason))


def printable(reason: str) -> str:
    """Return a text fit for a log: one line, printable, not too long."""
    cleaned = "".join(character if character.isprintable() else " " for character in reason)
    return " ".join(cleaned.split())[:MAX_REASON]
