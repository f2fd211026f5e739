"""FLTrust: cosines with the server's own update, nothing below 0, all of its norm."""

import pytest
import torch
from torch import Tensor

from fl_defense.screens.apply import apply_screens
from fl_defense.screens.base import Reply, ScreenedRound
from fl_defense.screens.fltrust import FLTrust
from fl_defense.screens.updates import names_of_weights, norm_of
from fl_defense.testing import small_spec
from tests.fl_defense.screens.rounds import CPU

SCREEN = FLTrust(num_images=16, epochs=2)
SPEC = small_spec()


def test_replies_along_the_servers_update_are_trusted_and_scaled_to_its_norm() -> None:
    torch.manual_seed(0)
    sent = {name: value.clone() for name, value in SPEC.build().state_dict().items()}
    shown = ScreenedRound(number=1, sent=sent, replies=[Reply(node=1, arrays=sent, num_examples=1)])
    torch.manual_seed(3)
    root = SCREEN._root(shown, SPEC, CPU)

    def along(factor: float) -> dict[str, Tensor]:
        return {
            name: (old + factor * (root[name] - old)).to(old.dtype) for name, old in sent.items()
        }

    replies = [
        Reply(node=node, arrays=along(factor), num_examples=1.0)
        for node, factor in enumerate((1.0, 20.0, -1.0))
    ]
    torch.manual_seed(3)
    said = SCREEN.screen(ScreenedRound(number=1, sent=sent, replies=replies), SPEC, device=CPU)
    assert [each.score for each in said.verdicts] == pytest.approx([1, 1, -1], abs=1e-3)
    assert [each.weight for each in said.verdicts] == pytest.approx([1, 1, 0], abs=1e-3)
    assert "with the server's update" in said.verdicts[2].reason
    scaled = said.verdicts[1].arrays
    assert scaled is not None
    norm = norm_of(Reply(node=0, arrays=scaled, num_examples=1), sent, names_of_weights(SPEC))
    assert norm == pytest.approx(said.details["root_norm"], rel=1e-4)


def test_where_nobody_is_trusted_the_model_stays_and_it_is_said() -> None:
    sent = SPEC.build().state_dict()
    shown = ScreenedRound(number=1, sent=sent, replies=[Reply(node=1, arrays=sent, num_examples=1)])
    screened = apply_screens([SCREEN], shown, SPEC, seed=0, device=CPU)
    assert screened.keep_sent == "every reply was left out"


def test_a_server_that_diverges_takes_nothing() -> None:
    sent = SPEC.build().state_dict()
    shown = ScreenedRound(number=1, sent=sent, replies=[Reply(node=1, arrays=sent, num_examples=1)])
    said = FLTrust(num_images=16, epochs=9, learning_rate=1e30).screen(shown, SPEC, device=CPU)
    assert said.keep_sent == "the server's own update is not finite"
