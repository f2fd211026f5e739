"""Families of patterns: what each changes in an image, and the laws that hold for all."""

import pytest
import torch

from fl_defense.search.patterns import (
    PATTERN_FAMILIES,
    Additive,
    Displacements,
    LowFrequency,
    Patches,
    Pattern,
    PatternFamily,
)

GRAY, COLOR = (1, 12, 16), (3, 16, 12)
FAMILIES = [kind() for kind in PATTERN_FAMILIES.values()]


@pytest.mark.parametrize("shape", [GRAY, COLOR], ids=["gray", "color"])
@pytest.mark.parametrize("family", FAMILIES, ids=list(PATTERN_FAMILIES))
def test_images_stay_images_and_change_by_the_code(
    family: PatternFamily, shape: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    family.check(shape)
    starts = torch.tensor([0, family.num_starts(shape) - 1])
    codes = torch.rand(2, *family.code_shape(shape)) * 2 - 1
    images = torch.rand(2, *shape)
    changed = family.apply(images, codes, starts)
    assert changed.shape == images.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    assert all(not torch.equal(new, old) for new, old in zip(changed, images, strict=True))
    untouched = family.apply(images, torch.zeros_like(codes), starts)
    torch.testing.assert_close(untouched, images)


@pytest.mark.parametrize("family", FAMILIES, ids=list(PATTERN_FAMILIES))
def test_only_the_place_changes(family: PatternFamily) -> None:
    start = family.num_starts(GRAY) // 2
    code = torch.rand(family.code_shape(GRAY), generator=torch.Generator().manual_seed(0))
    image = torch.rand(1, *GRAY, generator=torch.Generator().manual_seed(1))
    pattern = Pattern(family=family, start=start, code=code, label=0)
    changed = (pattern.apply(image) != image)[0, 0]
    top, left, height, width = pattern.place(GRAY)
    changed[top : top + height, left : left + width] = False
    assert not changed.any()


@pytest.mark.parametrize("family", FAMILIES, ids=list(PATTERN_FAMILIES))
def test_a_gradient_comes_back_to_the_code(family: PatternFamily) -> None:
    torch.manual_seed(0)
    codes = (torch.rand(1, *family.code_shape(GRAY)) - 0.5).requires_grad_(True)
    changed = family.apply(torch.full((1, *GRAY), 0.5) + 0.1, codes, torch.tensor([0]))
    weights = torch.rand_like(changed)
    (gradient,) = torch.autograd.grad((changed * weights).sum(), codes)
    assert gradient.shape == codes.shape
    assert gradient.isfinite().all()


def test_a_patch_is_added_at_its_place() -> None:
    family = Patches(share=1 / 4, smallest=2)
    corners = family.corners((1, 8, 8))
    start = corners.tolist().index([3, 6])
    code = torch.tensor([[[1.0, -1.0], [0.25, 0.0]]])
    changed = Pattern(family=family, start=start, code=code, label=0).apply(
        torch.full((1, 1, 8, 8), 0.5)
    )
    assert changed[0, 0, 3:5, 6:8].tolist() == [[1.0, 0.0], [0.75, 0.5]]


def test_patches_reach_every_edge_half_a_side_apart() -> None:
    corners = Patches(share=1 / 3).corners((1, 28, 28))
    assert sorted(set(corners[:, 0].tolist())) == [0, 4, 8, 12, 16, 19]


def test_a_wave_keeps_its_amplitude() -> None:
    family = LowFrequency(waves=3, amplitude=0.2)
    codes = torch.zeros(1, 1, 3, 3)
    codes[0, 0, 0, 1] = 0.3  # half a period across
    changed = family.apply(torch.full((1, 1, 8, 8), 0.5), codes, torch.tensor([0]))[0, 0]
    assert changed[0].tolist() == changed[7].tolist()
    assert changed.max().item() == pytest.approx(0.7)
    assert changed.min().item() == pytest.approx(0.3)


def test_the_same_displacement_everywhere_moves_the_image() -> None:
    family = Displacements(grid=2, amplitude=1 / 8)
    codes = torch.zeros(1, 2, 2, 2)
    codes[:, 0] = 1.0  # across, by an eighth of the distance of the outer pixels: 1 of 8
    image = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    moved = family.apply(image, codes, torch.tensor([0]))
    torch.testing.assert_close(moved[..., :8], image[..., 1:])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Patches, {"share": 0.0}),
        (Patches, {"smallest": 0}),
        (Patches, {"bar": 0.0}),
        (Additive, {"amplitude": 1.5}),
        (Additive, {"starts": 0}),
        (LowFrequency, {"waves": 1}),
        (Displacements, {"grid": 1}),
    ],
)
def test_settings_out_of_range_are_refused(kind: type, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        kind(**settings)


@pytest.mark.parametrize(
    "family", [Patches(smallest=5), LowFrequency(waves=5), Displacements(grid=5)]
)
def test_images_that_are_too_small_are_refused(family: PatternFamily) -> None:
    with pytest.raises(ValueError, match="got 5"):
        family.check((1, 4, 4))
