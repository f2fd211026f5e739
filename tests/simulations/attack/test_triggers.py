import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simulations.attack.triggers import TRIGGERS
from simulations.attack.triggers.base import Trigger
from simulations.attack.triggers.blended import Blended
from simulations.attack.triggers.dynamic import Dynamic
from simulations.attack.triggers.edge_case import EdgeCase
from simulations.attack.triggers.patch import Patch
from simulations.attack.triggers.sinusoid import Sinusoid
from simulations.attack.triggers.warped import Warped

IMAGES = torch.full((2, 3, 16, 20), 0.5)


@settings(max_examples=50, deadline=None)
@given(
    size=st.integers(1, 6),
    margin=st.integers(0, 4),
    position=st.sampled_from(["top-left", "top-right", "bottom-left", "bottom-right", "center"]),
    pattern=st.sampled_from(["checkerboard", "solid", "random"]),
)
def test_a_patch_changes_its_square_alone_and_stays_in_range(
    size: int, margin: int, position: str, pattern: str
) -> None:
    trigger = Patch(size=size, margin=margin, position=position, pattern=pattern)  # type: ignore[arg-type]
    stamped = trigger.stamp(IMAGES)
    changed = (stamped != IMAGES).any(dim=1)
    assert changed.sum() == len(IMAGES) * size * size
    assert stamped.min() >= 0
    assert stamped.max() <= 1
    assert torch.equal(trigger.stamp(stamped), stamped)
    assert IMAGES.eq(0.5).all()


def test_default_is_a_checkerboard_one_pixel_from_the_lower_right_corner() -> None:
    stamped = Patch().stamp(torch.full((1, 1, 8, 8), 0.5))
    expected = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    assert torch.equal(stamped[0, 0, 4:7, 4:7], expected)
    assert stamped[0, 0, 7].eq(0.5).all()


def test_color_is_per_channel_and_position_may_be_given() -> None:
    stamped = Patch(size=2, position=(1, 3), pattern="solid", color=(1, 0, 0.2)).stamp(IMAGES)
    assert stamped[0, :, 1, 3].tolist() == pytest.approx([1, 0, 0.2])
    assert stamped[0, :, 2, 4].tolist() == pytest.approx([1, 0, 0.2])
    assert stamped[0, :, 3, 5].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("trigger", [cls() for cls in TRIGGERS.values()], ids=list(TRIGGERS))
@settings(max_examples=25, deadline=None)
@given(
    num=st.integers(1, 3),
    channels=st.sampled_from([1, 3]),
    height=st.integers(16, 24),
    width=st.integers(16, 24),
    seed=st.integers(0, 99),
)
def test_a_trigger_keeps_shape_and_range_and_treats_every_image_alike(
    trigger: Trigger, num: int, channels: int, height: int, width: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(1000 + seed)  # not that of the noise
    images = torch.rand(num, channels, height, width, generator=generator)
    before = images.clone()
    trigger.check((channels, height, width))
    stamped = trigger.stamp(images)
    assert stamped.shape == images.shape
    assert stamped.min() >= 0
    assert stamped.max() <= 1
    assert torch.equal(images, before)
    assert not torch.equal(stamped, images)
    torch.testing.assert_close(stamped[-1:], trigger.stamp(images[-1:]))


@settings(max_examples=25, deadline=None)
@given(opacity=st.floats(0.05, 1), gray=st.floats(0, 1), seed=st.integers(0, 9))
def test_blending_mixes_the_same_noise_into_every_image(
    opacity: float, gray: float, seed: int
) -> None:
    trigger = Blended(opacity=opacity, seed=seed)
    noise = Blended(opacity=1, seed=seed).stamp(torch.zeros(1, 3, 8, 8))
    assert noise.std() > 0.2
    torch.testing.assert_close(
        trigger.stamp(torch.full((1, 3, 8, 8), gray)), (1 - opacity) * gray + opacity * noise
    )


def test_another_seed_draws_another_noise_and_another_field() -> None:
    ramp = torch.linspace(0, 1, 20).expand(1, 3, 16, 20)
    for one, other in ((Blended(), Blended(seed=1)), (Warped(), Warped(seed=1))):
        assert not torch.allclose(one.stamp(ramp), other.stamp(ramp), atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_stretched_to_the_images(channels: int, tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    picture = Image.new("RGB", (40, 10), (255, 0, 0))
    picture.paste((255, 255, 255), (20, 0, 40, 10))
    picture.save(path)
    trigger = Blended(picture=str(path), opacity=0.5)
    stamped = trigger.stamp(torch.zeros(1, channels, 16, 20))
    left, right = stamped[0, :, 8, 0], stamped[0, :, 8, 19]
    assert right.tolist() == [0.5] * channels
    red = [0.5, 0, 0] if channels == 3 else [0.5 * 76 / 255]  # ITU-R 601 luma of red
    assert left.tolist() == pytest.approx(red)


def test_stripes_are_a_sine_over_the_columns() -> None:
    stamped = Sinusoid(amplitude=0.1, frequency=2).stamp(torch.full((1, 3, 16, 20), 0.5))
    for column in range(20):
        expected = 0.5 + 0.1 * math.sin(2 * math.pi * column * 2 / 20)
        assert stamped[0, :, :, column].flatten().tolist() == pytest.approx([expected] * 48)
    assert Sinusoid(amplitude=1).stamp(torch.ones(1, 1, 16, 20)).max() == 1


@settings(max_examples=25, deadline=None)
@given(grid_size=st.integers(2, 6), strength=st.floats(0.1, 1), seed=st.integers(0, 99))
def test_warping_moves_pixels_smoothly_by_about_its_strength(
    grid_size: int, strength: float, seed: int
) -> None:
    """On images whose brightness is the column's number, the change of a pixel is its shift."""
    columns = torch.arange(32.0).expand(1, 1, 32, 32) / 31
    inner = slice(13, 19)  # no pixel there comes from near the border

    def shift(strength: float) -> torch.Tensor:
        trigger = Warped(grid_size=grid_size, strength=strength, seed=seed)
        return (trigger.stamp(columns) - columns)[0, 0, :, inner] * 31

    found = shift(strength)
    assert found.abs().max() < 4 * strength
    step = torch.maximum(found.diff(dim=0).abs().max(), found.diff(dim=1).abs().max())
    assert step < 6 * strength * (grid_size - 1) / 31
    torch.testing.assert_close(shift(2 * strength), 2 * found, atol=1e-3, rtol=0)
    flat = torch.full((1, 3, 16, 16), 0.3)
    torch.testing.assert_close(Warped(strength=strength).stamp(flat), flat)


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        (Patch(size=17), "leaves a 16x20 image"),
        (Patch(size=15, margin=2), "leaves a 16x20 image"),
        (Patch(size=3, position=(14, 2)), "leaves a 16x20 image"),
        (Patch(color=(1, 1)), "color must have 1 or 3 numbers"),
        (Blended(picture="nowhere.png"), r"picture nowhere.png cannot be read \(.*No such file"),
        (Blended(picture=__file__), "cannot identify image file"),
        (Sinusoid(frequency=10), "frequency must be below half the width of 20 pixels, got 10"),
        (Warped(grid_size=17), "grid-size 17 is finer than a 16x20 image"),
    ],
)
def test_what_does_not_fit_is_refused(trigger: Trigger, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trigger.check((3, 16, 20))


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (Patch, {"size": 0}),
        (Patch, {"margin": -1}),
        (Patch, {"color": (2.0,)}),
        (Patch, {"color": ()}),
        (Blended, {"opacity": 0.0}),
        (Blended, {"opacity": 1.1}),
        (Sinusoid, {"amplitude": 0.0}),
        (Sinusoid, {"amplitude": 1.5}),
        (Sinusoid, {"frequency": 0.0}),
        (Warped, {"grid_size": 1}),
        (Warped, {"strength": 0.0}),
    ],
)
def test_meaningless_fields_are_refused(cls: type, fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        cls(**fields)


def test_the_dynamic_square_lies_on_each_images_brightest_row_and_column() -> None:
    images = torch.full((2, 1, 8, 8), 0.5)
    images[0, :, 2, 5] = 1.0
    images[1, :, 7, 0] = 1.0
    changed = Dynamic(size=3).stamp(images) != images
    assert changed[0, 0].nonzero().flatten(1).tolist() == [
        [row, column] for row in (1, 2, 3) for column in (4, 5, 6)
    ]
    assert changed[1, 0].nonzero().tolist() == [
        [row, column] for row in (5, 6, 7) for column in (0, 1, 2)
    ]
    with pytest.raises(ValueError, match="larger than a 8x8 image"):
        Dynamic(size=9).check((1, 8, 8))


def test_an_edge_case_is_a_digit_that_follows_from_the_image() -> None:
    images = torch.rand(30, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = (images * 255).round() / 255
    digits = EdgeCase(digit=7).stamp(images)
    assert digits.shape == images.shape
    assert torch.equal(digits, EdgeCase(digit=7).stamp(images))
    assert torch.equal(digits[:, 0], digits[:, 2])
    assert len({tuple(digit.flatten().tolist()) for digit in digits}) > 20
    assert not torch.equal(digits, EdgeCase(digit=1).stamp(images))
    with pytest.raises(ValueError, match="digit"):
        EdgeCase(digit=10)
