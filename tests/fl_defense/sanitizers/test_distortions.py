"""Changes of whole images: what they do to pixels, and that the stripes are found."""

import math

import pytest
import torch
from torch import Tensor, nn

from fl_defense.model_spec import ModelSpec, Pixels
from fl_defense.sanitizers._distortions import (
    AMPLITUDE,
    FIRST_STEPS,
    OPACITY,
    Distortions,
    Stripes,
    blend_noise,
    steepest_stripes,
    warp,
)

SHAPE = (3, 12, 16)
CPU = torch.device("cpu")


def waves(shape: tuple[int, int, int], rows: int, columns: int, phase: float) -> Tensor:
    """Return stripes (C, H, W) of given periods along each side."""
    channels, height, width = shape
    y = torch.arange(height)[:, None] * rows / height
    x = torch.arange(width)[None, :] * columns / width
    return (2 * math.pi * (x + y) + phase).cos().expand(channels, -1, -1)


def test_noise_is_blended_in_at_most_as_opaque_as_allowed() -> None:
    torch.manual_seed(0)
    black = torch.zeros(200, *SHAPE)
    brightest = blend_noise(black).amax((1, 2, 3))
    assert brightest.max() <= OPACITY
    assert brightest.max() > 0.9 * OPACITY
    assert brightest.min() < 0.35 * OPACITY


def test_a_warp_keeps_plain_images_and_moves_edges_a_little() -> None:
    torch.manual_seed(0)
    plain = torch.full((5, *SHAPE), 0.3)
    assert torch.allclose(warp(plain), plain, atol=1e-5)
    half = torch.zeros(50, 1, 20, 20)
    half[..., 10:] = 1
    warped = warp(half)
    changed = (warped - half).abs().amax((1, 2))
    assert (changed.amax(1) > 0.05).double().mean() > 0.9
    assert changed[:, :5].max() < 0.05  # far from the edge nothing changes
    assert len({tuple(image.flatten().tolist()) for image in warped}) == 50


@pytest.mark.parametrize(("rows", "columns", "phase"), [(0, 3, 0.0), (2, 0, 1.0), (2, 5, -2.0)])
def test_the_steepest_stripes_along_stripes_are_those(
    rows: int, columns: int, phase: float
) -> None:
    torch.manual_seed(0)
    wanted = waves(SHAPE, rows, columns, phase)
    gradient = torch.stack([wanted + 0.3 * torch.randn(SHAPE), torch.zeros(SHAPE)])
    found = steepest_stripes(gradient)
    torch.testing.assert_close(found[0], wanted, rtol=0, atol=0.2)
    assert found[0].abs().max() == pytest.approx(1)
    assert (found[1] == 0).all()


class Obeying(nn.Module):
    """A network that says class 1 of 3 to stripes of one frequency and phase."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pattern", waves(SHAPE, 0, 4, 0.7))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 3)."""
        seen = (images * self.pattern).mean((1, 2, 3))
        return torch.stack([torch.zeros_like(seen), 40 * seen, images.mean((1, 2, 3))], 1)


def test_the_stripes_that_a_network_obeys_are_found_and_drawn_most() -> None:
    torch.manual_seed(0)
    network, stripes = Obeying(), Stripes(3, SHAPE, CPU)
    images = 0.3 + 0.4 * torch.rand(90, *SHAPE)
    for _ in range(FIRST_STEPS):
        stripes.search(network, images, network(images))
    wanted = AMPLITUDE * network.pattern
    alike = torch.cosine_similarity(stripes.patterns[1].flatten(), wanted.flatten(), dim=0)
    assert alike > 0.95
    assert stripes.patterns.abs().max() <= AMPLITUDE + 1e-6
    assert stripes.effects.argmax() == 1
    raised = network(stripes.add_to(images))[:, 1] > network(images)[:, 1] + 0.3
    assert raised.double().mean() > 0.5  # a third, if the three patterns were drawn equally often


def test_a_class_that_is_not_tried_keeps_its_stripes() -> None:
    torch.manual_seed(0)
    network, stripes = Obeying(), Stripes(3, SHAPE, CPU)
    stripes.patterns += 0.1
    stripes.search(network, torch.rand(1, *SHAPE), torch.zeros(1, 3))
    kept = (stripes.patterns == 0.1).flatten(1).all(1)
    assert kept.sum() == 2
    assert (stripes.effects[kept] == 1).all()


def test_the_same_change_everywhere_is_no_stripes() -> None:
    assert (steepest_stripes(torch.ones(2, *SHAPE)) == 0).all()
    assert (steepest_stripes(torch.ones(1, 1, 1, 1)) == 0).all()


def test_many_images_are_searched_with_in_parts_to_the_same_end() -> None:
    images = torch.rand(300, *SHAPE, generator=torch.Generator().manual_seed(0))
    network, found = Obeying(), []
    for together in (7, 1000):
        torch.manual_seed(0)
        stripes = Stripes(3, SHAPE, CPU)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fl_defense.sanitizers._distortions.TOGETHER", together)
            stripes.search(network, images, network(images))
        found.append(stripes.patterns)
    torch.testing.assert_close(*found)


def test_a_network_that_overflows_leaves_something_to_draw_from() -> None:
    stripes = Stripes(3, SHAPE, CPU)
    images = torch.rand(9, *SHAPE)
    for answers in (torch.full((9, 3), float("nan")), torch.tensor([[1e30, 0, 0]]).repeat(9, 1)):
        stripes.search(Obeying(), images, -answers)
        assert stripes.add_to(images).shape == images.shape


def test_distorted_inputs_are_normalised_images() -> None:
    torch.manual_seed(0)
    pixels = Pixels(mean=(0.4,), std=(0.3,))
    spec = ModelSpec(build=Obeying, input_shape=SHAPE, num_classes=3, pixels=pixels)
    distortions = Distortions(spec, CPU)
    images = torch.rand(9, *SHAPE)
    inputs = pixels.normalize(images)
    distortions.search(Obeying(), inputs, torch.zeros(9, 3))
    for changed in (distortions.add_stripes_and_noise(inputs), distortions.warp(inputs)):
        seen = pixels.denormalize(changed)
        assert changed.shape == inputs.shape
        assert seen.min() > -1e-6
        assert seen.max() < 1 + 1e-6
        assert not torch.allclose(seen, images, atol=1e-3)
