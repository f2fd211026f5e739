"""No loop waits for the device in each step: on a GPU every number that Python reads stops it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from fl_defense.model.spec import ModelSpec, Pixels
from fl_defense.sanitizers import DHBE, DeepSanitizer, apply_sanitizer
from fl_defense.screens import Attribution, Reply, ScreenedRound
from fl_defense.search.difference import Contrast, DifferenceSearch
from simulations.federation.trainer import Trainer
from simulations.scenario.training import Training
from tests.quick import DEFENSE, SEARCH

READS = {
    "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "bincount", "_unique2",
    "unique_dim", "unique_consecutive",
}  # fmt: skip
"""Operators of aten that read a number, or a size that depends on numbers, from the device."""
BY_MASK = {"index", "index_put", "index_put_"}
"""These do if an index is a mask."""


class Reads(TorchDispatchMode):
    """Counts what a device would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.in_optimizer = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        by_mask = name in BY_MASK and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        self.count += (name in READS or by_mask) and not self.in_optimizer
        return func(*args, **(kwargs or {}))


def reads(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how often a work reads from the device."""
    counted = Reads()
    moved = 0
    with monkeypatch.context() as patch:
        for name in ("cpu", "tolist", "numpy"):
            real = getattr(Tensor, name)

            def call(self: Tensor, *args: object, real: Callable[..., object] = real) -> object:
                nonlocal moved
                moved += 1
                return real(self, *args)

            patch.setattr(Tensor, name, call)

        # Torch's optimizers keep their number of steps on the CPU: reading it waits for nothing.
        def enter(*_: object) -> None:
            counted.in_optimizer = True

        def leave(*_: object) -> None:
            counted.in_optimizer = False

        hooks = [register_optimizer_step_pre_hook(enter), register_optimizer_step_post_hook(leave)]
        try:
            with counted:
                work()
        finally:
            for hook in hooks:
                hook.remove()
    return counted.count + moved


def train(spec: ModelSpec, model: nn.Module, steps: int) -> None:
    settings = Training(steps=steps, batch_size=4)
    trainer = Trainer(settings, Pixels(), torch.Generator(), learning_rate=0.01)
    images = torch.zeros(32, *spec.input_shape, dtype=torch.uint8)
    trainer.fit(spec.build(), images, torch.zeros(32, dtype=torch.long))


def dhbe(spec: ModelSpec, model: nn.Module, steps: int) -> None:
    apply_sanitizer(replace(DEFENSE, iterations=steps, patch_size=3), model, spec)


def paper(spec: ModelSpec, model: nn.Module, steps: int) -> None:
    # Its schedule falls at 60 and 80 % of the steps, whatever their number.
    asked = replace(DHBE.faithful(), iterations=steps, batch_size=8, student_steps=1)
    apply_sanitizer(replace(asked, patch_size=3), model, spec)


def head(spec: ModelSpec, model: nn.Module, steps: int) -> None:
    quick = DeepSanitizer(
        steps=steps, batch_size=8, num_dummies=32, candidates_per_image=1, patch_size=3,
        places=SEARCH.places, distortions=SEARCH.distortions,
    )  # fmt: skip
    apply_sanitizer(quick, model, spec)


def inspection(spec: ModelSpec, model: nn.Module, steps: int) -> None:
    replace(SEARCH, steps=steps, patch_size=3).inspect(model, spec)


def difference(spec: ModelSpec, model: nn.Module, steps: int) -> None:
    torch.manual_seed(0)
    scenes = torch.rand(16, *spec.input_shape)
    contrast = Contrast(model, spec.build().eval(), scenes, spec.pixels)
    DifferenceSearch(first_steps=steps, steps=steps).find(contrast)


def reads_once_a_step(spec: ModelSpec, model: nn.Module, steps: int) -> None:
    for _ in range(steps):
        torch.ones(2).sum().item()


def attribution(spec: ModelSpec, model: nn.Module, steps: int) -> None:
    torch.manual_seed(0)
    sent = model.state_dict()
    replies = [Reply(node=node, arrays=sent, num_examples=1.0) for node in (1, 2, 3)]
    shown = ScreenedRound(number=2, sent=sent, replies=replies)
    search = DifferenceSearch(first_steps=steps, steps=steps)
    screen = Attribution(search=search, num_scenes=16, num_judges=8, num_first_judges=4)
    screen.screen(shown, spec, device=torch.device("cpu"))


WORKS = {
    work.__name__: work for work in (train, dhbe, paper, head, inspection, difference, attribution)
}


@pytest.mark.filterwarnings("ignore::fl_defense.sanitizers.NoEffectWarning")
@pytest.mark.parametrize("name", WORKS)
def test_more_steps_read_no_more_from_the_device(
    name: str, tiny_spec: ModelSpec, tiny_model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (
        reads(partial(WORKS[name], tiny_spec, tiny_model, steps), monkeypatch) for steps in (2, 4)
    )
    assert few > 0  # something is read at the end, and is counted
    assert many == few


def test_a_read_in_each_step_is_noticed(
    tiny_spec: ModelSpec, tiny_model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (
        reads(partial(reads_once_a_step, tiny_spec, tiny_model, steps), monkeypatch)
        for steps in (2, 4)
    )
    assert (few, many) == (2, 4)
