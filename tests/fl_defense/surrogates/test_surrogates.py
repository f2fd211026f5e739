import pytest
import torch
from torch import nn

from fl_defense.model.batches import CHUNK, in_chunks
from fl_defense.model.spec import ModelSpec
from fl_defense.surrogates.familiarity import draw_familiar, most_familiar
from fl_defense.surrogates.pool import class_balance
from fl_defense.surrogates.scenes import scenes


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 20, 28)])
def test_scenes_are_images_that_differ(shape: tuple[int, int, int]) -> None:
    images = scenes(64, shape, generator=seeded(0))
    assert images.shape == (64, *shape)
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images.flatten(1).std(dim=1) > 0.01).double().mean() > 0.8
    assert len({tuple(image.flatten()[:50].tolist()) for image in images}) > 48


def test_scenes_follow_their_generator_alone() -> None:
    first = scenes(4, (1, 16, 16), generator=seeded(1))
    torch.manual_seed(5)
    assert torch.equal(first, scenes(4, (1, 16, 16), generator=seeded(1)))
    assert not torch.equal(first, scenes(4, (1, 16, 16), generator=seeded(2)))


def test_about_a_quarter_has_a_black_background() -> None:
    images = scenes(400, (1, 24, 24), generator=seeded(0))
    black = (images.flatten(1) == 0).double().mean(dim=1) > 0.3
    assert 0.15 < black.double().mean() < 0.35


def test_four_in_five_have_strokes_whose_edges_are_soft() -> None:
    images = scenes(400, (1, 24, 24), generator=seeded(0)).flatten(1)
    black = images[(images == 0).double().mean(1) > 0.3]
    # On a black background up to 6 shapes leave 7 values at most: their edges are hard.
    has_strokes = torch.tensor([len(image.unique()) > 7 for image in black])
    assert 0.65 < has_strokes.double().mean() < 0.9


def test_familiar_inputs_have_the_statistics_that_batchnorm_remembers() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1)).eval()
    model[0].weight.data.fill_(1.0)
    model[1].running_mean.fill_(0.5)  # type: ignore[union-attr,operator]
    levels = torch.linspace(0, 1, 11)[torch.randperm(11, generator=seeded(0))]
    inputs = levels.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    kept = most_familiar(model, inputs, 3)
    assert sorted(round(level, 1) for level in kept[:, 0, 0, 0].tolist()) == [0.4, 0.5, 0.6]
    assert not model[1]._forward_hooks


def test_without_batchnorm_the_first_are_kept() -> None:
    inputs = torch.rand(5, 1, 4, 4, generator=seeded(0))
    assert torch.equal(most_familiar(nn.Conv2d(1, 1, 1), inputs, 2), inputs[:2])


def test_the_most_familiar_of_all_are_kept_however_many_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch, tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    pool = scenes(600, tiny_spec.input_shape, generator=seeded(0))

    class Pool:
        def __init__(self) -> None:
            self.drawn = 0

        def draw(self, num: int, shape: tuple[int, int, int]) -> torch.Tensor:
            self.drawn += num
            return pool[self.drawn - num : self.drawn]

    model = tiny_model.eval()
    whole = draw_familiar(Pool(), model, tiny_spec, 150, 4)
    monkeypatch.setattr("fl_defense.surrogates.familiarity.VALUES_AT_ONCE", 1)
    parts = draw_familiar(Pool(), model, tiny_spec, 150, 4)
    assert whole.shape == (150, *tiny_spec.input_shape)
    torch.testing.assert_close(whole.flatten(1).sum(1).sort()[0], parts.flatten(1).sum(1).sort()[0])
    all_kept = draw_familiar(Pool(), model, tiny_spec, 600, 1)
    torch.testing.assert_close(all_kept, tiny_spec.pixels.normalize(pool))


def test_chunks_give_what_the_whole_gives() -> None:
    layer, inputs = nn.Linear(3, 2), torch.randn(CHUNK + 5, 3)
    found = in_chunks(layer, inputs)
    torch.testing.assert_close(found, layer(inputs).detach())
    assert not found.requires_grad


def test_balanced_draws_take_every_class_equally_often() -> None:
    logits = torch.eye(4)[torch.tensor([0] * 90 + [1] * 9 + [3])]
    weights = class_balance(logits)
    shares = torch.zeros(4).index_add(0, logits.argmax(1), weights) / weights.sum()
    torch.testing.assert_close(shares, torch.tensor([1 / 3, 1 / 3, 0, 1 / 3]))
