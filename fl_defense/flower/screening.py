"""Between Flower's messages and what screens see."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from flwr.app import Array, ArrayRecord, Message
from torch import Tensor

from fl_defense.flower.replies import arrays_of, metrics_of, weight_of
from fl_defense.screens.apply import Screened
from fl_defense.screens.base import Reply, ScreenedRound


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
    server_round: int, sent: ArrayRecord, replies: Sequence[Message], weighted_by_key: str
) -> ScreenedRound:
    """Return what screens are shown of a round's checked replies."""
    return ScreenedRound(
        number=server_round,
        sent=DecodedArrays(sent),
        replies=[
            Reply(
                node=reply.metadata.src_node_id,
                arrays=DecodedArrays(arrays_of(reply)),
                num_examples=weight_of(reply, weighted_by_key),
            )
            for reply in replies
        ],
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
