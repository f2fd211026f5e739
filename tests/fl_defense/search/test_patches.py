from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from fl_defense.search.patches import LARGEST_EFFECT, PatchSearch, PatchSearchSettings

SETTINGS = PatchSearchSettings()

CPU = torch.device("cpu")
PLACE, TARGET = (10, 12), 2


def backdoored(images: Tensor) -> Tensor:
    """Lift class 2 by what a checkerboard at one place has in common with the image there."""
    logits = torch.stack([images.mean((1, 2, 3)), images[:, 0, 0, 0], images[:, 0, 0, 1]], 1)
    row, column = PLACE
    board = 1.0 - 2 * ((torch.arange(3)[:, None] + torch.arange(3)) % 2)
    found = (images[:, 0, row : row + 3, column : column + 3] * board).sum((1, 2))
    return logits + 6 * torch.eye(3)[TARGET] * (found + 1).relu()[:, None]


class FunctionProbe:
    """Tries patches on a function of images, each time on others."""

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self.network = network
        self._images = 0.2 + 0.6 * torch.rand(500, 1, 16, 16)

    def draw(self, num: int) -> Tensor:
        return torch.randint(len(self._images), (num,))

    def images(self, scenes: Tensor) -> Tensor:
        return self._images[scenes]

    def logit_change(self, changed: Tensor, scenes: Tensor) -> Tensor:
        return self.network(changed) - self.network(self._images[scenes])


def search(side: int = 5) -> PatchSearch:
    torch.manual_seed(0)
    return PatchSearch(SETTINGS, (1, 16, 16), side, CPU)


def test_the_trigger_is_found_at_its_place_and_with_its_class() -> None:
    patches = search()
    patches.search_everywhere(FunctionProbe(backdoored))
    best = int(patches.effects.argmax())
    row, column = patches.places[best].tolist()
    assert row <= PLACE[0] <= row + 2
    assert column <= PLACE[1] <= column + 2
    assert patches.strongest_gain() > 15
    away = (patches.places - torch.tensor(PLACE)).abs().amax(1) > 5
    assert patches.effects[away].max().sqrt() < 5


def test_strong_patches_are_drawn_and_tried_more_often() -> None:
    patches = search()
    patches.search_everywhere(FunctionProbe(backdoored))
    best = int(patches.effects.argmax())
    even = 1 / len(patches.places)
    drawn = (patches.draw(3000) == best).double().mean()
    tried = (patches.choose(9000) == best).double().mean()
    assert drawn > 3 * even
    assert even < tried < drawn
    assert len(patches.choose(9000).unique()) == len(patches.places)


@pytest.mark.parametrize("num", [1, 2, 3, 7, 96])
def test_any_number_of_images_can_be_tried(num: int) -> None:
    patches = search()
    tried = patches.choose(num)
    assert num - SETTINGS.images_per_place < len(tried) <= num
    assert len(tried.unique()) <= max(1, num // SETTINGS.images_per_place)
    patches.step(FunctionProbe(backdoored), tried)


def test_a_place_that_is_not_tried_keeps_its_patch() -> None:
    patches = search()
    before = patches.patches.clone()
    patches.step(FunctionProbe(backdoored), torch.tensor([4, 4, 4]))
    changed = (patches.patches != before).flatten(1).any(1).nonzero().flatten().tolist()
    assert changed == [4]


@pytest.mark.parametrize(
    ("shape", "side", "num"),
    [((1, 16, 16), 3, 196), ((3, 28, 32), 5, 13 * 15), ((1, 8, 8), 8, 1), ((3, 224, 224), 5, 256)],
)
def test_places_reach_from_edge_to_edge(shape: tuple[int, int, int], side: int, num: int) -> None:
    apart = pytest.warns(UserWarning, match="searched 15 pixels apart in images of 224x224")
    with apart if shape[1] == 224 else nullcontext():
        patches = PatchSearch(SETTINGS, shape, side, CPU)
    assert len(patches.places) == num
    assert patches.places.min() == 0
    assert patches.places.amax(0).tolist() == [shape[1] - side, shape[2] - side]


def test_a_patch_changes_its_place_alone_and_leaves_legal_pixels() -> None:
    patches = search(side=4)
    images = torch.rand(50, 1, 16, 16)
    changed = patches.put_on(images) != images
    assert changed.any(3).sum(2).max() <= 4
    assert changed.any(2).sum(2).max() <= 4
    assert changed.flatten(1).any(1).all()
    assert 0 <= patches.put_on(images).min() <= patches.put_on(images).max() <= 1


def test_a_patch_replaces_what_an_image_shows() -> None:
    patches = search(side=4)
    images = torch.rand(2, 1, 16, 16)
    shown = patches.paste(images, torch.full((2, 1, 4, 4), 0.25), torch.tensor([0, 3]))
    row, column = patches.places[3].tolist()
    assert (shown[0, :, :4, :4] == 0.25).all()
    assert (shown[1, :, row : row + 4, column : column + 4] == 0.25).all()
    assert ((shown != images).sum((1, 2, 3)) == 16).all()


def test_a_patch_of_one_gray_is_found() -> None:
    """A dark gray square lifts the class most: neither black nor white does."""
    row, column = PLACE

    def network(images: Tensor) -> Tensor:
        square = images[:, 0, row : row + 3, column : column + 3]
        likeness = 4 - 4 * (square - 0.3).abs().mean((1, 2))
        return likeness[:, None] * torch.eye(3)[TARGET]

    patches, probe = search(), FunctionProbe(network)
    probe._images = 0.8 + 0.2 * torch.rand(500, 1, 16, 16)
    patches.search_everywhere(probe)
    patches.search_everywhere(probe)
    best = int(patches.effects.argmax())
    top, left = (torch.tensor(PLACE) - patches.places[best]).tolist()
    found = patches.patches[best, 0, top : top + 3, left : left + 3]
    assert (found - 0.3).abs().mean() < 0.15


def test_a_network_that_overflows_leaves_something_to_draw_from() -> None:
    patches = search()
    patches.search_everywhere(
        FunctionProbe(lambda images: 1e30 * images.mean((2, 3)) * torch.eye(3)[0])
    )
    assert patches.effects.max() == LARGEST_EFFECT
    assert len(patches.draw(5)) == 5
    patches.search_everywhere(
        FunctionProbe(lambda images: images.mean((2, 3)).repeat(1, 3) * 1e38**2)
    )
    assert len(patches.draw(5)) == 5


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_strongest_gain_is_in_units_of_the_logits(scale: float) -> None:
    patches = search()
    patches.search_everywhere(FunctionProbe(lambda images: scale * backdoored(images)))
    assert 15 * scale < patches.strongest_gain() < 50 * scale
    nothing = search()
    nothing.search_everywhere(
        FunctionProbe(lambda images: torch.zeros(len(images), 3) * images.sum())
    )
    assert nothing.strongest_gain() == pytest.approx(0, abs=1e-3)


def test_a_search_goes_on_where_it_was() -> None:
    one, other = search(), PatchSearch(SETTINGS, (1, 16, 16), 5, CPU)
    one.search_everywhere(FunctionProbe(backdoored))
    other.load(one.state())
    assert torch.equal(one.patches, other.patches)
    assert one.strongest_gain() == other.strongest_gain()
    before = {name: value.clone() for name, value in one.state().items()}
    for patches in (one, other):
        torch.manual_seed(1)
        patches.step(FunctionProbe(backdoored), torch.arange(6))
    assert torch.equal(one.patches, other.patches)
    again = search()
    again.load(before)
    again.search_everywhere(FunctionProbe(backdoored))
    assert torch.equal(before["steps"], torch.full_like(before["steps"], SETTINGS.first_steps))
    with pytest.raises(ValueError, match="another kind or size"):
        search(side=4).load(before)
    with pytest.raises(ValueError, match="another kind or size"):
        search().load({"network": {}, "optimizer": {}})
