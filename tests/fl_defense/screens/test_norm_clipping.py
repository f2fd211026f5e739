import pytest
import torch
from torch import Tensor

from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Reply, ScreenedRound
from fl_defense.screens.norm_clipping import NormClipping

CPU = torch.device("cpu")


def weights(scale: float) -> dict[str, Tensor]:
    """A model that moved by `scale` along one weight of its only layer."""
    return {"weight": torch.tensor([[1.0 + scale, 0.0]]), "bias": torch.zeros(1)}


SPEC = ModelSpec(build=lambda: torch.nn.Linear(2, 1), input_shape=(1, 1, 2), num_classes=2)


def shown(*moves: float) -> ScreenedRound:
    replies = [
        Reply(node=number, arrays=weights(move), num_examples=10)
        for number, move in enumerate(moves)
    ]
    return ScreenedRound(number=1, sent=weights(0.0), replies=replies)


def test_longer_updates_are_scaled_to_the_bound_and_others_stay() -> None:
    said = NormClipping(max_norm=2.0).screen(shown(1.0, 4.0), SPEC, device=CPU).verdicts
    assert [verdict.score for verdict in said] == [1.0, 4.0]
    assert said[0].arrays is None
    assert said[0].reason == ""
    assert said[1].arrays is not None
    assert torch.equal(said[1].arrays["weight"], torch.tensor([[3.0, 0.0]]))
    assert said[1].reason == "update of norm 4 was clipped to 2"
    assert [verdict.weight for verdict in said] == [1.0, 1.0]


def test_without_a_bound_the_median_of_the_round_is_it() -> None:
    screening = NormClipping().screen(shown(1.0, 2.0, 30.0), SPEC, device=CPU)
    assert screening.details == {"max_norm": 2.0}
    clipped = screening.verdicts[2].arrays
    assert clipped is not None
    assert torch.allclose(clipped["weight"], torch.tensor([[3.0, 0.0]]))


def test_statistics_are_no_update() -> None:
    spec = ModelSpec(build=lambda: torch.nn.BatchNorm1d(1), input_shape=(1, 1, 1), num_classes=2)
    sent = spec.build().state_dict()
    moved = {name: value + 100 for name, value in sent.items()}
    moved["weight"] = sent["weight"] + 4
    moved["bias"] = sent["bias"].clone()
    round_ = ScreenedRound(number=1, sent=sent,
                           replies=[Reply(node=0, arrays=moved, num_examples=1)])  # fmt: skip
    (said,) = NormClipping(max_norm=1.0).screen(round_, spec, device=CPU).verdicts
    assert said.score == 4.0
    assert said.arrays is not None
    assert said.arrays["weight"].item() == 2.0
    assert said.arrays["running_mean"].item() == 100.0


@pytest.mark.parametrize("bound", [0.0, -1.0])
def test_a_bound_that_is_not_positive_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match=r"max_norm must be positive"):
        NormClipping(max_norm=bound)
