"""Sign flip, noise, ALIE and IPM: what they send, from honest updates known in the test."""

from collections.abc import Callable
from statistics import NormalDist

import pytest
import torch

from simulations.attack import alie, honest_training
from simulations.attack.alie import ALIE, most_deviations
from simulations.attack.context import AttackContext
from simulations.attack.gaussian_noise import GaussianNoise
from simulations.attack.ipm import IPM
from simulations.attack.sign_flip import SignFlip

MakeContext = Callable[..., AttackContext]
RECEIVED = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(4)}
HONEST = {
    1: {"w": torch.tensor([2.0, 2.0]), "n": torch.tensor(8)},
    3: {"w": torch.tensor([4.0, 0.0]), "n": torch.tensor(9)},
}  # updates [1, 0] and [3, -2]: mean [2, -1], deviation [1, 1]


@pytest.fixture
def known(make_context: MakeContext, monkeypatch: pytest.MonkeyPatch) -> AttackContext:
    monkeypatch.setattr(
        honest_training, "honest_arrays", lambda context, partition: HONEST[partition]
    )
    return make_context(received=RECEIVED, weights=frozenset({"w"}))


def test_sign_flip_turns_the_update_round(known: AttackContext) -> None:
    sent = SignFlip(factor=2).craft(HONEST[3], known)
    assert sent["w"].tolist() == [-5.0, 6.0]
    assert sent["n"] == 9


def test_alie_sends_the_mean_less_some_deviations(known: AttackContext) -> None:
    sent = ALIE(deviations=1.5).craft(HONEST[3], known)
    assert sent["w"].tolist() == [1 + 2 - 1.5, 2 - 1 - 1.5]


def test_alies_deviations_are_the_papers() -> None:
    # n = 50, m = 24: s = 2 supporters, 24 of 26 honest updates may lie nearer to the mean.
    assert most_deviations(50, 24) == pytest.approx(NormalDist().inv_cdf(24 / 26))
    assert most_deviations(10, 4) == pytest.approx(NormalDist().inv_cdf(4 / 6))
    assert most_deviations(10, 1) == 0
    assert alie.ALIE().deviations is None


def test_ipm_sends_the_negated_mean(known: AttackContext) -> None:
    sent = IPM(factor=0.5).craft(HONEST[3], known)
    assert sent["w"].tolist() == [1 - 0.5 * 2, 2 + 0.5 * 1]


def test_noise_has_a_multiple_of_the_updates_norm_and_other_draws_each_round(
    make_context: MakeContext,
) -> None:
    received = {"w": torch.zeros(40_000)}
    trained = {"w": torch.full((40_000,), 0.01)}  # an update of norm 2
    contexts = [
        make_context(received=received, weights=frozenset({"w"}), server_round=number)
        for number in (1, 2)
    ]
    one, other = (GaussianNoise(norm_share=3).craft(trained, each)["w"] for each in contexts)
    assert float(one.norm()) == pytest.approx(6, rel=0.02)
    assert float(torch.dot(one, other)) < 1
    assert torch.equal(one, GaussianNoise(norm_share=3).craft(trained, contexts[0])["w"])


def test_all_attackers_send_the_same_whoever_they_are(make_context: MakeContext) -> None:
    contexts = [make_context(partition=each) for each in (1, 3)]
    one, other = (ALIE(deviations=1).craft({}, each) for each in contexts)
    assert one.keys() == other.keys() == contexts[0].received.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
