import pytest
import torch

from fl_defense.sanitizers._generators import (
    ImageGenerator,
    PatchGenerator,
    one_cycle,
    place_patches,
)


@pytest.mark.parametrize("side", [8, 16, 20, 28, 32, 64])
def test_image_generator_makes_normalised_inputs_of_any_size(side: int) -> None:
    torch.manual_seed(0)
    inputs = ImageGenerator(16, 4, (3, side, side + 4)).sample(32)
    assert inputs.shape == (32, 3, side, side + 4)
    assert inputs.mean((0, 2, 3)).abs().max() < 1e-3
    assert torch.allclose(inputs.var((0, 2, 3)), torch.ones(3), atol=0.02)


@pytest.mark.parametrize("side", [3, 5, 8, 9, 28, 32])
def test_patch_generator_stays_between_minus_one_and_one(side: int) -> None:
    torch.manual_seed(0)
    patches = PatchGenerator(16, 4, 1, side).sample(8)
    assert patches.shape == (8, 1, side, side)
    assert patches.abs().max() < 1


@pytest.mark.parametrize("shared", [True, False])
def test_patches_are_placed_whole_anywhere(shared: bool) -> None:
    torch.manual_seed(0)
    patches = torch.rand(400, 2, 3, 3) + 1
    placed = place_patches(patches, (5, 7), shared=shared)
    assert (placed != 0).flatten(1).sum(1).eq(2 * 9).all()
    for image, patch in zip(placed, patches, strict=True):
        assert torch.equal(image[image != 0], patch.flatten())
    corners = {tuple((image[0] != 0).nonzero()[0].tolist()) for image in placed}
    assert len(corners) == (1 if shared else 3 * 5)


def test_a_patch_as_large_as_the_image_covers_it() -> None:
    patches = torch.rand(4, 1, 6, 6)
    assert torch.equal(place_patches(patches, (6, 6), shared=False), patches)


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 200])
def test_any_number_of_steps_rises_to_the_peak_and_falls(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = one_cycle(optimizer, 0.5, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    highest = rates.index(max(rates))
    assert rates[0] == pytest.approx(0.5 / 25)
    assert rates == sorted(rates[:highest]) + sorted(rates[highest:], reverse=True)
    # A tenth of the way, but for runs so short that there is no such step.
    assert highest <= max(1, 0.1 * steps)
    assert rates[highest] == pytest.approx(0.5 if steps > 1 else 0.5 / 25, rel=0.01)
