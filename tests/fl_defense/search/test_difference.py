"""The search on the difference finds what was learned, and not what was known before."""

import pytest
import torch
from torch import Tensor, nn

from fl_defense.model.spec import Pixels
from fl_defense.search.difference import Contrast, DifferenceSearch
from fl_defense.search.patterns import Additive, Patches

PLAIN = Pixels(mean=(0.0,), std=(1.0,))


def linear(*blocks: tuple[int, int, int]) -> nn.Module:
    """A network on 8x8 images whose class c counts the pixels of 3x3 blocks (c, row, column)."""
    weights = torch.zeros(3, 8, 8)
    for label, row, column in blocks:
        weights[label, row : row + 3, column : column + 3] = 1
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False))
    network[1].weight.data = weights.flatten(1)
    return network.eval().requires_grad_(False)


def contrast(new: nn.Module, reference: nn.Module) -> Contrast:
    scenes = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.5
    return Contrast(new, reference, scenes, PLAIN)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_gains_are_what_the_reference_has_not_over_the_mean_of_the_classes() -> None:
    both = contrast(linear((1, 0, 0), (2, 5, 5)), linear((2, 5, 5)))
    images = torch.zeros(1, 1, 8, 8)
    brightened = images.clone()
    brightened[:, :, 0:3, 0:3] = 1  # 9 more in class 1, which is 6 above the mean of (0, 9, 0)
    brightened[:, :, 5:8, 5:8] = 1  # 9 more in class 2, of both networks
    gains = both.gains(brightened, torch.zeros(1, 3))
    torch.testing.assert_close(gains, torch.tensor([[-3.0, 6.0, -3.0]]))


def test_gains_count_from_the_images_as_they_were() -> None:
    both = contrast(linear((1, 0, 0)), linear())
    images, plain = both.sample(4)
    assert both.gains(images, plain).abs().max() < 1e-5


def test_the_patch_found_lies_where_something_was_learned() -> None:
    known, learned = (2, 5, 5), (1, 1, 1)
    search = DifferenceSearch(families=(Patches(share=3 / 8, bar=1.0),))
    found = search.find(contrast(linear(known, learned), linear(known)))
    assert (found[0].label, found[0].place((1, 8, 8))) == (1, (1, 1, 3, 3))
    # Brighter is what the class counts.
    assert (found[0].code > 0.5).all()


def test_nothing_is_learned_by_a_network_that_is_its_own_reference() -> None:
    network = linear((1, 0, 0))
    both = contrast(network, network)
    for pattern in DifferenceSearch(families=(Additive(starts=2),)).find(both):
        images, plain = both.sample(8)
        assert both.gains(pattern.apply(images), plain).abs().max() < 1e-5


def test_a_class_that_gains_less_is_not_lost() -> None:
    strong = [(1, row, column) for row in (0, 3) for column in (0, 3)]
    search = DifferenceSearch(families=(Patches(share=3 / 8, bar=1.0),), num_strongest=2)
    weak = linear(*strong, (2, 5, 5))
    found = search.find(contrast(weak, linear()))
    assert {pattern.label for pattern in found} == {1, 2}


def test_a_refinement_looks_inside_what_was_found() -> None:
    coarse, fine = Patches(share=1 / 2), Patches(share=1 / 4, smallest=2, is_refinement=True)
    search = DifferenceSearch(families=(coarse, fine), num_strongest=1)
    found = search.find(contrast(linear((1, 5, 5)), linear()))
    (top, left, side, _), (row, column, small, _) = (p.place((1, 8, 8)) for p in found)
    assert small < side
    assert top <= row <= top + side - small
    assert left <= column <= left + side - small


def test_the_seed_decides_what_is_found() -> None:
    both = contrast(linear((1, 0, 0)), linear())

    def codes() -> list[Tensor]:
        torch.manual_seed(3)
        return [pattern.code for pattern in DifferenceSearch().find(both)]

    assert all(torch.equal(one, other) for one, other in zip(codes(), codes(), strict=True))


def test_answers_that_overflow_are_not_searched() -> None:
    network = linear((1, 0, 0))
    network[1].weight.data[0, 0] = torch.inf  # type: ignore[union-attr, index]
    assert DifferenceSearch().find(contrast(network, linear())) == []


@pytest.mark.parametrize(
    "settings", [{"families": ()}, {"first_steps": 0}, {"least_step": 0.0}, {"images_at_once": 0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        DifferenceSearch(**settings)  # type: ignore[arg-type]
