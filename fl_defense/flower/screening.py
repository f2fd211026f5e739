"""Between Flower's messages and what screens see."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from flwr.app import Array, ArrayRecord, Message
from torch import Tensor

from fl_defense.flower.partial import Part
from fl_defense.flower.replies import arrays_of, metrics_of, weight_of
from fl_defense.log import logger
from fl_defense.model.spec import ModelSpec
from fl_defense.screens.apply import Screened, apply_screens
from fl_defense.screens.base import Reply, Screen, ScreenedRound
from fl_defense.state import State


class DecodedArrays(Mapping[str, Tensor]):
    """The arrays of a record as tensors, each decoded anew when it is asked for.

    Only one array is in memory twice, however many replies there are.
    """

    def __init__(self, arrays: ArrayRecord) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> Tensor:
        """Decode one array."""
        return torch.from_numpy(self._arrays[name].numpy())

    def __iter__(self) -> Iterator[str]:
        """Return the names, in the order of the record."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._arrays)


def shown_to_screens(
    server_round: int,
    sent: ArrayRecord,
    replies: Sequence[Message],
    weighted_by_key: str,
    part: Part,
    *,
    began_trained: bool,
) -> ScreenedRound:
    """Return what screens are shown of a round's checked replies: networks that are whole."""
    return ScreenedRound(
        number=server_round,
        sent=part.whole(DecodedArrays(sent)),
        replies=[
            Reply(
                node=reply.metadata.src_node_id,
                arrays=part.whole(DecodedArrays(arrays_of(reply))),
                num_examples=weight_of(reply, weighted_by_key),
            )
            for reply in replies
        ],
        began_trained=began_trained,
    )


def screened_replies(
    replies: Sequence[Message], screened: Screened, weighted_by_key: str
) -> list[Message]:
    """Return the replies that are to be aggregated, edited as the screens said.

    Weights are factors on the number of examples, which strategies that weigh replies heed; Krum
    and medians do not weigh.
    """
    kept = []
    for reply, said in zip(replies, screened.verdicts, strict=True):
        if said.weight == 0:
            continue
        if said.weight < 1:
            metrics_of(reply)[weighted_by_key] = said.weight * weight_of(reply, weighted_by_key)
        if said.arrays is not None:
            record = arrays_of(reply)
            for name in list(record):
                record[name] = Array(said.arrays[name].numpy())
        kept.append(reply)
    return kept


@dataclass(frozen=True, kw_only=True)
class ReplyScreens:
    """Screens of a run's replies, in order."""

    screens: tuple[Screen, ...]
    """What judges; the fields are `SanitizingStrategy`'s arguments of the same names."""
    spec: ModelSpec
    part: Part
    """What of the model is federated."""
    weighted_by_key: str
    """Metric by which replies are weighed."""
    seed: int
    device: torch.device
    began_trained: bool
    """The run begins with a model that was trained before."""

    def judge(
        self,
        server_round: int,
        sent: ArrayRecord,
        replies: Sequence[Message],
        states: State | None,
    ) -> Screened | None:
        """Judge a round's replies, and log who is left out; None without screens or replies.

        Args:
            server_round: number of the round.
            sent: the arrays that clients were sent.
            replies: checked ones.
            states: what the screens carried from the round before.
        """
        if not self.screens or not replies:
            return None
        screened = apply_screens(
            self.screens,
            shown_to_screens(
                server_round,
                sent,
                replies,
                self.weighted_by_key,
                self.part,
                began_trained=self.began_trained,
            ),
            self.spec,
            seed=self.seed,
            device=self.device,
            states=states,
        )
        for reply, said in zip(replies, screened.verdicts, strict=True):
            if said.weight == 0:
                node = reply.metadata.src_node_id
                logger.warning("round %d: node %d is left out: %s", server_round, node, said.reason)
        if screened.keep_sent is not None:
            earlier, what = screened.send_again, "the model sent out stays"
            if earlier is not None:
                what = f"the model of round {earlier.round} is sent again"
            logger.warning("round %d: %s: %s", server_round, what, screened.keep_sent)
        return screened
