import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.triggers import Patch

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


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        (Patch(size=17), "leaves a 16x20 image"),
        (Patch(size=15, margin=2), "leaves a 16x20 image"),
        (Patch(size=3, position=(14, 2)), "leaves a 16x20 image"),
        (Patch(color=(1, 1)), "color must have 1 or 3 numbers"),
    ],
)
def test_what_does_not_fit_is_refused(trigger: Patch, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trigger.check((3, 16, 20))


@pytest.mark.parametrize("fields", [{"size": 0}, {"margin": -1}, {"color": (2.0,)}, {"color": ()}])
def test_meaningless_fields_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Patch(**fields)  # type: ignore[arg-type]
