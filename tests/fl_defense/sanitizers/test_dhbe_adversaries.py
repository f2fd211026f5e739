from typing import ClassVar

import torch
from torch import Tensor, nn

from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import DHBE, apply_sanitizer


class Modes(nn.Module):
    """Notes in which mode a network is trained, and in which it is searched."""

    trained: ClassVar[list[bool]] = []
    searched: ClassVar[list[bool]] = []

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.requires_grad:
            self.searched.append(self.training)
        elif torch.is_grad_enabled():
            self.trained.append(self.training)
        logits: Tensor = self.network(inputs)
        return logits


def test_a_student_is_searched_in_eval_mode_whatever_it_is_trained_in(
    tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    Modes.trained.clear()
    Modes.searched.clear()
    settings = DHBE(
        iterations=3, batch_size=8, num_scenes=40, patch_size=3, student_batchnorm="train",
        distorted_share=0.0,
    )  # fmt: skip
    apply_sanitizer(settings, Modes(tiny_model), tiny_spec)
    # A pass for the plain and one for the patched images of each of three iterations.
    assert Modes.trained == [True] * 6
    assert len(Modes.searched) > 3
    assert not any(Modes.searched)
