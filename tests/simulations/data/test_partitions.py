import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.data import (
    IID,
    ByWriter,
    Digits,
    Dirichlet,
    ImageData,
    Partition,
    Pathological,
    QuantitySkew,
    Shards,
    deal_out,
)
from simulations.data.load import load_data

LABELS = np.repeat(np.arange(5), 80)


@settings(max_examples=30, deadline=None)
@given(
    partition=st.sampled_from(
        [
            IID(),
            Dirichlet(alpha=0.5),
            Dirichlet(alpha=5, min_size=20),
            Shards(),
            Shards(shards_per_client=7),
            Pathological(classes_per_client=5),
            QuantitySkew(min_size=1),
            QuantitySkew(alpha=20),
            ByWriter(),
        ]
    ),
    num_clients=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_parts_are_disjoint_covering_and_a_function_of_the_seed(
    partition: Partition, num_clients: int, seed: int
) -> None:
    parts = partition.split(LABELS, num_clients, seed)
    assert len(parts) == num_clients
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(LABELS)))
    again = partition.split(LABELS, num_clients, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_iid_parts_have_equal_size_and_depend_on_the_seed() -> None:
    first, other = IID().split(LABELS, 7, 0), IID().split(LABELS, 7, 1)
    assert {len(part) for part in first} == {57, 58}
    assert not np.array_equal(first[0], other[0])


def test_a_small_alpha_skews_the_classes() -> None:
    def largest_share(alpha: float) -> float:
        parts = Dirichlet(alpha=alpha).split(LABELS, 5, 0)
        return float(np.mean([np.bincount(LABELS[part]).max() / len(part) for part in parts]))

    assert largest_share(0.1) > 0.6
    assert largest_share(1000) < 0.25


def test_smallest_size_is_kept_or_refused() -> None:
    parts = Dirichlet(alpha=0.3, min_size=25).split(LABELS, 8, 3)
    assert min(map(len, parts)) >= 25
    with pytest.raises(ValueError, match="raise alpha or lower min-size"):
        Dirichlet(alpha=0.01, min_size=60).split(LABELS, 6, 0)
    with pytest.raises(ValueError, match="too few for 500 clients"):
        IID().split(LABELS, 500, 0)


@pytest.mark.parametrize("fields", [{"alpha": 0.0}, {"min_size": 0}])
def test_refuses(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Dirichlet(**fields)


@pytest.mark.parametrize(
    "partition", [Shards(), Pathological(), QuantitySkew(), Dirichlet(), ByWriter(), IID()]
)
def test_another_seed_deals_otherwise(partition: Partition) -> None:
    one, other = (partition.split(LABELS, 5, seed) for seed in (0, 1))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_shards_by_hand() -> None:
    # 12 images of classes 2, 0, 1 in turns; six shards of two images of one class each.
    labels = np.array([2, 0, 1] * 4)
    parts = Shards(shards_per_client=2).split(labels, 3, 0)
    assert [len(part) for part in parts] == [4, 4, 4]
    for part in parts:
        counts = np.bincount(labels[part], minlength=3)
        assert sorted(counts.tolist()) in ([0, 2, 2], [0, 0, 4])
        assert part.tolist() == sorted(part.tolist())
    # 80 images a class make one shard for each of five clients: each has a class to itself.
    alone = Shards(shards_per_client=1).split(LABELS, 5, 3)
    assert sorted(set(LABELS[part].tolist()).pop() for part in alone) == [0, 1, 2, 3, 4]
    # 13 images in 4 shards: sizes 4, 3, 3, 3.
    uneven = Shards(shards_per_client=1).split(np.zeros(13, dtype=int), 4, 0)
    assert sorted(map(len, uneven)) == [3, 3, 3, 4]


@pytest.mark.parametrize(("k", "num_clients"), [(1, 5), (1, 12), (2, 3), (2, 10), (3, 7), (5, 4)])
def test_pathological_clients_have_exactly_k_classes_which_are_shared_evenly(
    k: int, num_clients: int
) -> None:
    parts = Pathological(classes_per_client=k).split(LABELS, num_clients, 4)
    counts = np.array([np.bincount(LABELS[part], minlength=5) for part in parts])
    assert ((counts > 0).sum(axis=1) == k).all()
    owners = (counts > 0).sum(axis=0)
    assert owners.max() - owners.min() <= 1
    for label in range(5):
        shares = counts[counts[:, label] > 0, label]
        assert shares.sum() == 80
        assert shares.max() - shares.min() <= 1


def test_quantity_skew_skews_sizes_and_not_classes() -> None:
    many = np.repeat(np.arange(4), 5000)
    skewed = QuantitySkew(alpha=0.5, min_size=200).split(many, 5, 0)
    even = QuantitySkew(alpha=1000).split(many, 5, 0)
    assert max(map(len, skewed)) > 3 * min(map(len, skewed))
    assert min(map(len, skewed)) >= 200
    assert max(map(len, even)) < 1.2 * min(map(len, even))
    for part in skewed:
        assert np.bincount(many[part]) / len(part) == pytest.approx(0.25, abs=0.12)


def test_a_client_gets_whole_writers() -> None:
    writers = np.array([30, 10, 20, 10, 30, 50, 40, 10])
    parts = ByWriter().split(writers, 2, 0)
    theirs = [set(writers[part].tolist()) for part in parts]
    assert sorted(map(len, theirs)) == [2, 3]
    assert theirs[0].isdisjoint(theirs[1])
    with pytest.raises(ValueError, match="5 writers are too few for 6 clients"):
        ByWriter().split(writers, 6, 0)


def test_writers_are_dealt_out_where_the_files_tell_them(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    written = ImageData(
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
        train_writers=torch.tensor([4, 4, 8, 4, 8, 8]),
    )
    source = Digits(max_train=5)
    monkeypatch.setattr(Digits, "read", lambda self: written)
    load_data.cache_clear()
    deal_out.cache_clear()
    parts = deal_out(ByWriter(), source, 2, seed=0)
    # The limit takes five of the six; writers follow their images.
    data = load_data(source)
    assert data.train_writers is not None
    kept = dict(zip(labels.tolist(), [4, 4, 8, 4, 8, 8], strict=True))
    assert data.train_writers.tolist() == [kept[each] for each in data.train_labels.tolist()]
    assert [len({int(data.train_writers[each]) for each in part}) for part in parts] == [1, 1]
    load_data.cache_clear()
    deal_out.cache_clear()
    monkeypatch.undo()
    with pytest.raises(ValueError, match="by-writer needs to know who wrote what"):
        deal_out(ByWriter(), source, 2, seed=0)


@pytest.mark.parametrize(
    ("partition", "num_clients", "message"),
    [
        (Shards(shards_per_client=100), 5, "400 images are too few for 5 clients with 100 each"),
        (Pathological(classes_per_client=6), 5,
         "classes_per_client must be at most the 5 classes there are, got 6"),
        (Pathological(classes_per_client=2), 2, "cannot hold all 5 classes; raise"),
        (Pathological(classes_per_client=5), 81, "class 0 has 80 images for 81 clients; take"),
        (QuantitySkew(min_size=100), 5, "400 images are too few for 5 clients with 100 each"),
        (QuantitySkew(alpha=0.01, min_size=79), 5, "raise alpha or lower min-size"),
    ],
)  # fmt: skip
def test_what_cannot_be_dealt_out_is_refused(
    partition: Partition, num_clients: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        partition.split(LABELS, num_clients, 0)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Shards, {"shards_per_client": 0}),
        (Pathological, {"classes_per_client": 0}),
        (QuantitySkew, {"alpha": 0.0}),
        (QuantitySkew, {"min_size": 0}),
    ],
)
def test_settings_out_of_range_are_refused(kind: type, fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        kind(**fields)
