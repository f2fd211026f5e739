import pytest
import torch

from simulations.training.augmentation import Transform, augment, transformed

IMAGES = torch.arange(64 * 3 * 6 * 5, dtype=torch.float32).reshape(64, 3, 6, 5) + 1


def drawn(how: str, seed: int = 0) -> torch.Tensor:
    return augment(IMAGES, how, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def test_flip_mirrors_whole_images_about_half_of_them() -> None:
    changed = drawn("flip")
    kept = (changed == IMAGES).flatten(1).all(1)
    turned = (changed == IMAGES.flip(3)).flatten(1).all(1)
    assert (kept ^ turned).all()
    assert 16 < turned.sum() < 48


def test_none_leaves_images_and_the_generator_alone() -> None:
    draws = torch.Generator().manual_seed(0)
    before = draws.get_state()
    assert augment(IMAGES, "none", draws) is IMAGES
    assert torch.equal(draws.get_state(), before)


def test_the_seed_alone_decides_and_images_are_changed_one_by_one() -> None:
    for how in ("crop", "flip", "crop-flip"):
        torch.manual_seed(1)
        one = drawn(how)
        torch.manual_seed(2)
        assert torch.equal(one, drawn(how))
        assert not torch.equal(one, drawn(how, seed=1))
        assert one.shape == IMAGES.shape
    shifts = {int((image[0] > 0).sum()) for image in drawn("crop")}
    assert len(shifts) > 3


def test_transforms_draw_for_each_image_by_itself_and_run_in_order() -> None:
    flips = [Transform(name="RandomHorizontalFlip").build()]
    changed = transformed(IMAGES, flips, torch.Generator().manual_seed(0))
    turned = (changed == IMAGES.flip(3)).flatten(1).all(1)
    assert ((changed == IMAGES).flatten(1).all(1) ^ turned).all()
    assert 16 < turned.sum() < 48
    always = {"arguments": {"p": 1}}
    both = [
        Transform(name=name, **always).build() for name in ("RandomVerticalFlip", "RandomInvert")
    ]
    small = IMAGES / IMAGES.max()
    torch.testing.assert_close(transformed(small, both, torch.Generator()), 1 - small.flip(2))


def test_no_transform_draws_nothing() -> None:
    draws = torch.Generator().manual_seed(0)
    before = draws.get_state()
    assert transformed(IMAGES, [], draws) is IMAGES
    assert torch.equal(draws.get_state(), before)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Rotate", {}, "name must be a transform of torchvision.transforms.v2, got 'Rotate'; try"),
        ("functional", {}, "name must be a transform"),
        ("RandomRotation", {}, r"arguments of RandomRotation are refused \(TypeError.*degrees"),
        ("RandomRotation", {"degrees": -1}, "arguments of RandomRotation are refused"),
        ("MixUp", {"num_classes": 3}, "arguments of MixUp are refused"),
    ],
)
def test_what_torchvision_cannot_make_is_refused(
    name: str, arguments: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Transform(name=name, arguments=arguments)


def test_a_transform_that_changes_the_shape_is_refused() -> None:
    crop = [Transform(name="CenterCrop", arguments={"size": 3}).build()]
    with pytest.raises(ValueError, match=r"must keep the shape \(3, 6, 5\), got \(3, 3, 3\)"):
        transformed(IMAGES, crop, torch.Generator())
