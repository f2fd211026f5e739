"""DeepSight: clusters trained on few labels are left out, the right ones are accepted."""

import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Reply, ScreenedRound, Screening
from fl_defense.screens.deepsight import DeepSight, exceedings, suspicious_shares
from tests.fl_defense.screens.rounds import CPU, left_out

CLASSES = 5
SCREEN = DeepSight(num_samples=64)


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES))


SPEC = ModelSpec(build=build, input_shape=(1, 2, 2), num_classes=CLASSES)


def trained(sent: dict[str, Tensor], outputs: list[float], seed: int) -> dict[str, Tensor]:
    """A reply that moved each output by so much, and a little at random."""
    draw = torch.Generator().manual_seed(seed)
    far = torch.tensor(outputs)
    return {
        "1.weight": sent["1.weight"]
        + far[:, None] * (1 + 0.05 * torch.randn(CLASSES, 4, generator=draw)),
        "1.bias": sent["1.bias"] + far * (1 + 0.05 * torch.randn(CLASSES, generator=draw)),
    }


def screened(updates: list[list[float]]) -> Screening:
    torch.manual_seed(0)
    sent = {name: value.clone() for name, value in build().state_dict().items()}
    replies = [
        Reply(node=node, arrays=trained(sent, outputs, node), num_examples=10.0)
        for node, outputs in enumerate(updates)
    ]
    return SCREEN.screen(ScreenedRound(number=1, sent=sent, replies=replies), SPEC, device=CPU)


HONEST = [0.1, -0.1, 0.1, -0.1, 0.1]
ONE_LABEL = [3.0, -0.02, -0.02, -0.02, -0.02]


def test_the_cluster_that_was_trained_on_one_label_is_left_out() -> None:
    screening = screened([HONEST] * 3 + [ONE_LABEL] * 2 + [HONEST] * 3)
    assert left_out(screening) == [3, 4]
    assert screening.verdicts[3].reason == "100% of its cluster were trained on few labels"
    assert screening.details["exceedings"] == [5, 5, 5, 1, 1, 5, 5, 5]


def test_without_attackers_all_are_accepted() -> None:
    assert left_out(screened([HONEST] * 6)) == []


def test_longer_updates_are_clipped_to_the_median_norm() -> None:
    screening = screened([HONEST] * 5 + [[3 * each for each in HONEST]])
    assert left_out(screening) == []
    assert "was clipped to" in screening.verdicts[5].reason


def test_a_cluster_is_accepted_below_a_third_of_suspicious_replies() -> None:
    clusters = [0, 0, 0, 0, 1, 1, 1, -1, -1]
    suspicious = [True, False, False, False, True, False, False, True, False]
    shares = suspicious_shares(clusters, suspicious)
    assert shares == [0.25] * 4 + [1 / 3] * 3 + [1.0, 0.0]
    kept = [share < DeepSight().suspicious_share for share in shares]
    assert kept == [True] * 4 + [False] * 3 + [False, True]


def test_outputs_count_by_their_share_of_the_largest_energy() -> None:
    # Of ten classes a tenth of the largest is needed, of five hundred a hundredth.
    assert exceedings(torch.tensor([[1.0, 0.11, 0.09] + [0.0] * 7]), 0.01) == [2]
    assert exceedings(torch.tensor([[1.0, 0.011, 0.009] + [0.0] * 497]), 0.01) == [2]


def test_two_replies_cannot_be_told_apart() -> None:
    assert screened([HONEST, ONE_LABEL]).keep_sent is not None


def test_networks_without_an_output_layer_are_refused() -> None:
    spec = ModelSpec(build=lambda: nn.Linear(2, 9), input_shape=(1, 1, 2), num_classes=3)
    with pytest.raises(ValueError, match="no linear layer with 3 outputs"):
        SCREEN.check(spec.build(), spec)
