import torch

from benchmarks.drawn import PATTERNS, DrawnPatch, drawn_backdoor


def test_what_is_drawn_differs_in_all_that_matters_and_fits_the_image() -> None:
    drawn = [drawn_backdoor(seed, (1, 28, 28), 10) for seed in range(40)]
    patches = [each.trigger for each in drawn if isinstance(each.trigger, DrawnPatch)]
    assert len(patches) == 40
    for patch in patches:
        patch.check((1, 28, 28))
    assert {patch.size for patch in patches} == {2, 3, 4, 5}
    assert {patch.pattern for patch in patches} == set(PATTERNS)
    assert {each.target for each in drawn} == set(range(10))
    assert min(patch.opacity for patch in patches) < 0.6 < 0.9 < max(p.opacity for p in patches)


def test_a_patch_is_mixed_in_at_its_place() -> None:
    patch = DrawnPatch(
        size=2, row=1, column=3, pattern="checkerboard", bright=(1.0,), dark=(0.5,), opacity=0.5,
        seed=0,
    )  # fmt: skip
    images = torch.zeros(2, 1, 5, 6)
    stamped = patch.stamp(images)
    expected = torch.tensor([[0.5, 0.25], [0.25, 0.5]])
    assert torch.equal(stamped[:, 0, 1:3, 3:5], expected.expand(2, -1, -1))
    stamped[:, :, 1:3, 3:5] = 0
    assert torch.equal(stamped, images)
    assert images.eq(0).all()
