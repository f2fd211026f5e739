"""What comes back of a round's messages: replies are checked, and those that are lost are named."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from flwr.app import ArrayRecord, Message, Metadata
from flwr.serverapp.strategy import Strategy

from fl_defense.flower.inner_strategies import weighing_losses
from fl_defense.flower.layouts import Layout
from fl_defense.flower.replies import CheckedReplies, ReplyCheck
from fl_defense.log import logger
from fl_defense.rounds.records import Rejection

Kind = Literal["train", "evaluate"]
"""Of messages: Flower's two types."""


@dataclass(kw_only=True)
class Intake:
    """Remembers who was asked, and takes in what they reply."""

    check: ReplyCheck
    """What a reply must satisfy."""
    strategy: Strategy
    """Aggregates them; some weigh them by their losses, too."""
    weighted_by_key: str
    """Metric by which they are weighed."""
    non_negative: Collection[str]
    """Arrays that hold no value below 0."""
    asked: dict[Kind, list[Metadata]] = field(default_factory=dict)
    """Of the last messages of each kind."""
    records: dict[Kind, list[str]] = field(default_factory=dict)
    """Names of the records of arrays in them."""

    def ask(self, kind: Kind, messages: Iterable[Message]) -> list[Message]:
        """Remember messages that are about to be sent, and return them."""
        messages = list(messages)
        self.asked[kind] = [message.metadata for message in messages]
        names = (name for message in messages for name in message.content.array_records)
        self.records[kind] = list(dict.fromkeys(names))
        return messages

    def trained(
        self,
        server_round: int,
        replies: list[Message],
        sent: ArrayRecord,
        layouts: Mapping[str, Layout],
    ) -> CheckedReplies:
        """Return the replies to a round of training, sorted; who was silent has failed.

        Args:
            server_round: number of the round.
            replies: what came back.
            sent: the arrays that clients were sent.
            layouts: how the last valid replies of each kind were laid out.
        """
        checked = self.check.sort(
            replies,
            sent,
            self.weighted_by_key,
            sent=self.asked.get("train", []),
            last_layout=layouts.get("train"),
            sent_records=self.records.get("train", []),
            non_negative=self.non_negative,
            losses=weighing_losses(self.strategy),
        )
        return self._logged("train", server_round, replies, checked)

    def evaluated(
        self, server_round: int, replies: list[Message], layouts: Mapping[str, Layout]
    ) -> CheckedReplies:
        """Return the replies to a round of evaluation likewise."""
        checked = self.check.sort_evaluations(
            replies,
            self.weighted_by_key,
            sent=self.asked.get("evaluate", []),
            last_layout=layouts.get("evaluate"),
        )
        return self._logged("evaluate", server_round, replies, checked)

    def _logged(
        self, kind: Kind, server_round: int, replies: list[Message], checked: CheckedReplies
    ) -> CheckedReplies:
        silent = _silent(self.asked.get(kind, []), replies, checked.failed)
        checked = replace(checked, failed=[*checked.failed, *silent])
        for lost in (*checked.rejected, *checked.failed):
            logger.warning(
                "round %d, %s: node %s is lost: %s", server_round, kind, lost.node, lost.reason
            )
        for each in checked.limited:
            logger.warning("round %d, %s: node %s: %s", server_round, kind, each.node, each.reason)
        return checked


def _silent(
    asked: Iterable[Metadata], replies: Iterable[Message], failed: Iterable[Rejection]
) -> list[Rejection]:
    """Return the nodes that were asked and did not answer in time."""
    heard = {reply.metadata.src_node_id for reply in replies} | {lost.node for lost in failed}
    return [
        Rejection(node=message.dst_node_id, reason="no answer in time")
        for message in asked
        if message.dst_node_id not in heard
    ]
