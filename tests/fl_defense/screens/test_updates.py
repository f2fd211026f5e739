"""Updates: what is compared, in which numbers, and what an edit leaves alone."""

import pytest
import torch

from fl_defense.screens.base import Reply, ScreenedRound
from fl_defense.screens.updates import (
    changes,
    cosines_of,
    edited,
    inner_products,
    names_of_weights,
    norm_of,
    norms_of,
)
from fl_defense.testing import small_spec
from tests.fl_defense.screens.rounds import round_of, vector

NAMES = frozenset({"weight"})


def test_blocks_of_coordinates_make_up_the_updates() -> None:
    shown = round_of([1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0])
    blocks = list(changes(shown, NAMES, columns=2))
    assert [tuple(block.shape) for block in blocks] == [(2, 2), (2, 2), (2, 1)]
    assert torch.cat(blocks, 1).tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]


def test_updates_that_overflow_in_float32_have_finite_norms() -> None:
    products = inner_products(round_of([3e38, 3e38], [3.0, 4.0]), NAMES)
    assert norms_of(products).tolist() == pytest.approx([3e38 * 2**0.5, 5.0])
    assert cosines_of(products)[0, 1].item() == pytest.approx(7 / 5 / 2**0.5)


def test_float64_updates_that_overflow_are_cut_off() -> None:
    far = {"weight": torch.full((1, 2), 1.7e308, dtype=torch.float64)}
    sent = {"weight": -far["weight"]}
    reply = Reply(node=0, arrays=far, num_examples=1.0)
    shown = ScreenedRound(number=1, sent=sent, replies=[reply])
    assert inner_products(shown, NAMES).isfinite().all()
    assert edited(reply, sent, NAMES, 1e-140)["weight"].isfinite().all()


def test_an_update_of_zeros_has_no_direction() -> None:
    cosines = cosines_of(inner_products(round_of([0.0, 0.0], [1.0, 0.0], [0.0, 0.0]), NAMES))
    assert cosines.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_an_edit_that_leaves_the_numbers_dtype_holds_its_largest_number() -> None:
    reply = Reply(node=0, arrays=vector([3e38, 0.0]), num_examples=1.0)
    noise = {"weight": torch.full((1, 2), 3e38, dtype=torch.float64)}
    moved = edited(reply, vector([0.0, 0.0]), NAMES, 1.0, noise)["weight"]
    assert moved.dtype == torch.float32
    assert moved.isfinite().all()


def test_statistics_and_counters_are_no_weights_and_stay_in_an_edit() -> None:
    spec = small_spec()
    sent = {name: value.clone() for name, value in spec.build().state_dict().items()}
    moved = {name: value + 1 for name, value in sent.items()}
    reply, names = Reply(node=0, arrays=moved, num_examples=1.0), names_of_weights(spec)
    size = sum(sent[name].numel() for name in names)
    assert norm_of(reply, sent, names) == pytest.approx(size**0.5, rel=1e-6)
    halved = edited(reply, sent, names, 0.5)
    assert torch.equal(halved["1.running_mean"], moved["1.running_mean"])
    assert torch.equal(halved["1.num_batches_tracked"], moved["1.num_batches_tracked"])
    assert torch.allclose(halved["9.bias"], sent["9.bias"] + 0.5)


def test_asking_for_names_draws_nothing_the_first_time_either() -> None:
    names_of_weights.cache_clear()
    before = torch.get_rng_state()
    names_of_weights(small_spec())
    assert torch.equal(torch.get_rng_state(), before)
