import pytest
import torch

from fl_defense.surrogates import textures


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 20, 28)])
def test_textures_are_images_that_differ(shape: tuple[int, int, int]) -> None:
    images = textures(16, shape, generator=torch.Generator().manual_seed(0))
    assert images.shape == (16, *shape)
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images.flatten(1).std(dim=1) > 0.01).all()
    assert not torch.allclose(images[0], images[1])


def test_textures_follow_their_generator_alone() -> None:
    first = textures(4, (1, 16, 16), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    again = textures(4, (1, 16, 16), generator=torch.Generator().manual_seed(1))
    other = textures(4, (1, 16, 16), generator=torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_noise_without_shapes_has_more_power_in_low_frequencies() -> None:
    images = textures(64, (1, 32, 32), generator=torch.Generator().manual_seed(0), num_shapes=0)
    power = torch.fft.rfft2(images - images.mean((2, 3), keepdim=True)).abs().square().mean((0, 1))
    assert power[1:4, 1:4].mean() > 10 * power[12:16, 12:16].mean()
