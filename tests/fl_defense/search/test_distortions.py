"""Whole-image changes: what they do to pixels, and which of them a network is found to react to."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.batches import in_chunks
from fl_defense.model.spec import Pixels
from fl_defense.search.distortions import (
    DistortionSearch,
    DistortionSettings,
    FoundDistortion,
    Measurement,
)
from fl_defense.search.noise import Noise
from fl_defense.search.probe import NetworkProbe
from fl_defense.search.warps import Warps
from fl_defense.search.waves import Waves
from fl_defense.surrogates.pool import ScenePool
from fl_defense.surrogates.scenes import scenes

CPU = torch.device("cpu")
SHAPE = (3, 18, 20)
PIXELS = Pixels(mean=(0.0,), std=(1.0,))


def wave(down: float, across: float, phase: float) -> Tensor:
    """Return a wave (H, W) of whole periods, its phase in periods."""
    y = torch.arange(SHAPE[1])[:, None] * down / SHAPE[1]
    x = torch.arange(SHAPE[2])[None, :] * across / SHAPE[2]
    return (2 * math.pi * (y + x + phase)).sin()


class Lifting(nn.Module):
    """A network of ten classes, of which a detector lifts class 2."""

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


def answered(num: int, model: nn.Module) -> ScenePool:
    inputs = scenes(num, SHAPE)
    return ScenePool(inputs, in_chunks(model, inputs))


def find(detector: Callable[[Tensor], Tensor]) -> dict[str, FoundDistortion]:
    torch.manual_seed(0)
    model = Lifting(detector)
    pool = answered(300, model)
    probe = NetworkProbe(model, pool, PIXELS)
    search = DistortionSearch(DistortionSettings(), SHAPE, CPU)
    found = search.find(Measurement(probe, pool.spread()))
    return {each.family.name: each for each in found}


def test_a_wave_that_is_remembered_in_its_phase_is_found_with_its_class() -> None:
    found = find(in_phase)["wave"]
    assert found.pattern.tolist() == [5, 3, 0.25]
    assert found.suspected_class == 2
    assert found.is_active


def test_a_wave_that_lifts_a_class_in_any_phase_is_no_backdoor() -> None:
    assert not find(in_any_phase)["wave"].is_active
    # It does lift the class, as much as the bar asks for.
    torch.manual_seed(0)
    images = scenes(200, SHAPE)
    striped = (images + Waves().amplitude * wave(5, 3, 0.25)).clamp(0, 1)
    model = Lifting(in_any_phase)
    raised = (model(striped) - model(images))[:, 2].mean() / model(images).std(1).mean()
    assert raised > Waves().bar


def test_noise_that_is_reacted_to_is_found_with_its_class_and_nothing_else_is() -> None:
    found = find(roughness)
    assert found["noise"].suspected_class == 2
    assert [name for name, each in found.items() if each.is_active] == ["noise"]


def test_a_network_that_reacts_to_nothing_is_not_suspected() -> None:
    found = find(brightness)
    assert set(found) == {"noise", "warp", "wave"}
    assert not any(each.is_active for each in found.values())


def test_what_is_unlearned_has_other_draws_and_strengths_and_legal_pixels() -> None:
    torch.manual_seed(0)
    images = torch.full((60, *SHAPE), 0.5)
    settings = DistortionSettings()
    for family in settings.families:
        pattern = family.patterns(SHAPE, CPU)[0, 0]
        found = FoundDistortion(
            family=family, pattern=pattern, suspected_class=0, gain=9.0, bar=1.0
        )
        changed = found.add_to(images, settings.strengths)
        assert changed.shape == images.shape
        assert 0 <= changed.min() <= changed.max() <= 1
        if family.name != "warp":  # a plain image stays plain
            assert len({tuple(image.flatten().tolist()) for image in changed}) == 60
            largest = (changed - images).abs().amax((1, 2, 3))
            unit = {"noise": settings.noise.opacity / 2, "wave": settings.wave.amplitude}[
                family.name
            ]
            assert largest.max() <= settings.strengths[1] * unit + 1e-6
            assert largest.max() > 0.8 * settings.strengths[1] * unit


def test_a_warp_keeps_plain_images_and_moves_edges_a_little() -> None:
    torch.manual_seed(0)
    warps = Warps()
    pattern = warps.patterns((1, 20, 20), CPU)[0, 0]
    plain = torch.full((5, 1, 20, 20), 0.3)
    fields, ones = warps.draw_like(pattern, 5), torch.ones(5)
    torch.testing.assert_close(warps.add(plain, fields, ones), plain)
    half = torch.zeros(50, 1, 20, 20)
    half[..., 10:] = 1
    fields, ones = warps.draw_like(pattern, 50), torch.ones(50)
    changed = (warps.add(half, fields, ones) - half).abs().amax((1, 2))
    assert (changed.amax(1) > 0.05).double().mean() > 0.9
    assert changed[:, :5].max() < 0.05  # far from the edge nothing changes


@pytest.mark.parametrize("side", [12, 16, 28, 32, 64, 224])
def test_waves_on_the_grid_of_strides_are_left_out(side: int) -> None:
    waves = Waves().patterns((1, side, side), CPU)
    assert waves.shape[1:] == (4, 3)
    assert waves[:, :, :2].abs().max() <= Waves().most_periods
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
    waves = Waves()
    drawn = waves.draw_like(torch.tensor([3.0, -2.0, 0.25]), 200)
    assert (drawn[:, :2] == torch.tensor([3.0, -2.0])).all()
    away = (drawn[:, 2] - 0.25).abs()
    assert away.max() <= 1 / 8
    assert away.max() > 1 / 10


def test_images_too_small_for_waves_are_searched_for_the_others() -> None:
    search = DistortionSearch(DistortionSettings(), (1, 8, 8), CPU)
    names = [family.name for family, _ in search.patterns]
    assert names == ["noise", "warp"]


def test_what_all_patterns_of_a_group_lift_alike_is_no_patterns_own() -> None:
    torch.manual_seed(0)
    model = Lifting(lambda images: 3.0 * (images.amax((1, 2, 3)) > 0.99))
    pool = answered(40, model)
    measurement = Measurement(NetworkProbe(model, pool, PIXELS), spread=2.0)
    bright = torch.ones(1, 2, *SHAPE)
    family = Noise(opacity=1.0)
    one = measurement.gain(family, bright[:, :1], 40)
    assert one.shape == (1, 1, 10)
    assert int(one.argmax()) == 2
    # The class gains 3 on logits of which the other nine gain nothing: 2.7 above the mean.
    assert one[0, 0, 2] <= 2.7 / 2 + 0.1
    both = measurement.gain(family, bright, 40)
    assert both.shape == (1, 2, 10)
    assert both.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Noise(opacity=0.0), "opacity must be positive, got 0"),
        (lambda: Warps(grid_sides=(6, 2)), "grid_sides must be ascending from 2, got"),
        (lambda: Waves(num_phases=1), "num_phases must be at least 2, got 1"),
        (lambda: DistortionSettings(repeat_fraction=1.5), r"repeat_fraction must be in \[0, 1\]"),
        (lambda: DistortionSettings(strengths=(2.0, 1.0)), "strengths must be ascending from 0"),
    ],
)
def test_meaningless_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
