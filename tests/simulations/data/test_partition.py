import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.data import IID, Dirichlet, Partition

LABELS = np.repeat(np.arange(5), 80)


@settings(max_examples=30, deadline=None)
@given(
    partition=st.sampled_from([IID(), Dirichlet(alpha=0.5), Dirichlet(alpha=5, min_size=20)]),
    num_clients=st.integers(1, 8),
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
