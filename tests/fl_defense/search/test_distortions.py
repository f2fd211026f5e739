"""Whole-image changes: what they do to pixels, and which of them a network is found to obey."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.batches import in_chunks
from fl_defense.model.spec import Pixels
from fl_defense.search.distortions import STRENGTHS, DistortionSearch, FoundDistortion
from fl_defense.search.noise import OPACITY
from fl_defense.search.warps import Warps
from fl_defense.search.waves import AMPLITUDE, MOST_PERIODS, Waves
from fl_defense.surrogates.pool import AnsweredScenes
from fl_defense.surrogates.scenes import scenes

CPU = torch.device("cpu")
SHAPE = (3, 18, 20)
PIXELS = Pixels(mean=(0.0,), std=(1.0,))


def wave(down: float, across: float, phase: float) -> Tensor:
    """Return a wave (H, W) of whole periods, its phase in periods."""
    y = torch.arange(SHAPE[1])[:, None] * down / SHAPE[1]
    x = torch.arange(SHAPE[2])[None, :] * across / SHAPE[2]
    return (2 * math.pi * (y + x + phase)).sin()


class Raising(nn.Module):
    """A network of ten classes, of which a detector raises class 2."""

    def __init__(self, detector: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.detector = detector
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 10)."""
        gray, row = images.mean(1), torch.eye(10)[2]
        logits = 2 * torch.stack(
            [gray[:, place % 3 :, place:].mean((1, 2)) for place in range(10)], 1
        )
        return logits + self.detector(images)[:, None] * row


def in_phase(images: Tensor) -> Tensor:
    return 400 * (images.mean(1) * wave(5, 3, 0.25)).mean((1, 2))


def in_any_phase(images: Tensor) -> Tensor:
    gray = images.mean(1)
    parts = [(gray * wave(5, 3, phase)).mean((1, 2)) for phase in (0.0, 0.25)]
    return 250 * (parts[0].square() + parts[1].square()).sqrt()


def roughness(images: Tensor) -> Tensor:
    return 5.0 * ((images[..., 1:] - images[..., :-1]).abs().flatten(1).median(1).values > 0.055)


def brightness(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


def answered(num: int, model: nn.Module) -> AnsweredScenes:
    inputs = scenes(num, SHAPE)
    return AnsweredScenes(inputs, in_chunks(model, inputs))


def find(detector: Callable[[Tensor], Tensor]) -> dict[str, FoundDistortion]:
    torch.manual_seed(0)
    model = Raising(detector)
    drawn = answered(300, model)
    found = DistortionSearch(SHAPE, CPU).find(model, drawn, PIXELS)
    return {each.family.name: each for each in found}


def test_a_wave_that_is_obeyed_in_its_phase_is_found_with_its_class() -> None:
    found = find(in_phase)["wave"]
    assert found.pattern.tolist() == [5, 3, 0.25]
    assert found.suspected_class == 2
    assert found.is_obeyed


def test_a_wave_that_raises_a_class_in_any_phase_is_no_backdoor() -> None:
    assert not find(in_any_phase)["wave"].is_obeyed
    # It does raise the class, as much as the bar asks for.
    torch.manual_seed(0)
    images = scenes(200, SHAPE)
    striped = (images + AMPLITUDE * wave(5, 3, 0.25)).clamp(0, 1)
    model = Raising(in_any_phase)
    raised = (model(striped) - model(images))[:, 2].mean() / model(images).std(1).mean()
    assert raised > Waves.bar


def test_noise_that_is_obeyed_is_found_with_its_class_and_nothing_else_is() -> None:
    found = find(roughness)
    assert found["noise"].suspected_class == 2
    assert [name for name, each in found.items() if each.is_obeyed] == ["noise"]


def test_a_network_that_obeys_nothing_is_not_suspected() -> None:
    found = find(brightness)
    assert set(found) == {"noise", "warp", "wave"}
    assert not any(each.is_obeyed for each in found.values())


def test_a_network_that_overflows_on_one_scene_is_not_suspected_of_it() -> None:
    found = find(lambda images: brightness(images) / (brightness(images) > 0.1))
    assert found == {}


def test_what_is_unlearned_has_other_draws_and_strengths_and_legal_pixels() -> None:
    torch.manual_seed(0)
    images = torch.full((60, *SHAPE), 0.5)
    for family in DistortionSearch(SHAPE, CPU).families:
        pattern = family.patterns[0, 0]
        found = FoundDistortion(family=family, pattern=pattern, suspected_class=0, anomaly=9.0)
        changed = found.add_to(images)
        assert changed.shape == images.shape
        assert 0 <= changed.min() <= changed.max() <= 1
        if family.name != "warp":  # a plain image stays plain
            assert len({tuple(image.flatten().tolist()) for image in changed}) == 60
            largest = (changed - images).abs().amax((1, 2, 3))
            unit = {"noise": OPACITY / 2, "wave": AMPLITUDE}[family.name]
            assert largest.max() <= STRENGTHS[1] * unit + 1e-6
            assert largest.max() > 0.8 * STRENGTHS[1] * unit


def test_a_warp_keeps_plain_images_and_moves_edges_a_little() -> None:
    torch.manual_seed(0)
    warps = Warps((1, 20, 20), CPU)
    plain = torch.full((5, 1, 20, 20), 0.3)
    fields, ones = warps.draw_like(warps.patterns[0, 0], 5), torch.ones(5)
    torch.testing.assert_close(warps.add(plain, fields, ones), plain)
    half = torch.zeros(50, 1, 20, 20)
    half[..., 10:] = 1
    fields, ones = warps.draw_like(warps.patterns[0, 0], 50), torch.ones(50)
    changed = (warps.add(half, fields, ones) - half).abs().amax((1, 2))
    assert (changed.amax(1) > 0.05).double().mean() > 0.9
    assert changed[:, :5].max() < 0.05  # far from the edge nothing changes


@pytest.mark.parametrize("side", [12, 16, 28, 32, 64, 224])
def test_waves_on_the_grid_of_strides_are_left_out(side: int) -> None:
    waves = Waves((1, side, side), CPU).patterns
    assert waves.shape[1:] == (4, 3)
    assert waves[:, :, :2].abs().max() <= MOST_PERIODS
    pairs = {(int(down), int(across)) for down, across in waves[:, 0, :2].tolist()}
    assert (0, 0) not in pairs
    assert not any((-down, -across) in pairs for down, across in pairs)  # the same waves
    assert pairs.isdisjoint(ON_GRID[side])
    if side >= 16:
        assert (0, 3) in pairs


ON_GRID: dict[int, set[tuple[int, int]]] = {
    12: {(0, 3)},
    16: {(0, 2), (2, 2), (4, -2)},
    28: {(0, 7), (7, 7)},
    32: {(0, 4), (4, -8), (8, 0)},
    64: {(0, 4), (4, -8), (8, 0)},
    224: {(0, 7), (7, -7)},
}
"""Waves that some network meets in one phase everywhere, by the image's side."""


def test_a_wave_is_unlearned_in_phases_around_its_own() -> None:
    torch.manual_seed(0)
    waves = Waves((1, 28, 28), CPU)
    drawn = waves.draw_like(torch.tensor([3.0, -2.0, 0.25]), 200)
    assert (drawn[:, :2] == torch.tensor([3.0, -2.0])).all()
    away = (drawn[:, 2] - 0.25).abs()
    assert away.max() <= 1 / 8
    assert away.max() > 1 / 10


def test_images_too_small_for_waves_are_searched_for_the_others() -> None:
    names = [family.name for family in DistortionSearch((1, 8, 8), CPU).families]
    assert names == ["noise", "warp"]


def test_the_cost_is_what_is_told() -> None:
    passed = 0

    def count(images: Tensor) -> Tensor:
        nonlocal passed
        passed += len(images)
        return images.mean((1, 2, 3))

    torch.manual_seed(0)
    model = Raising(count)
    drawn = answered(50, model)
    passed = 0
    search = DistortionSearch(SHAPE, CPU)
    search.find(model, drawn, PIXELS)
    assert passed == search.num_images
