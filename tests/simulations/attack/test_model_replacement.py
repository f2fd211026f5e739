from collections.abc import Callable
from typing import Any

import pytest
import torch

from simulations.attack.constrain_and_scale import ConstrainAndScale
from simulations.attack.context import AttackContext
from simulations.attack.model_replacement import ModelReplacement
from simulations.attack.updates import norm_of, update_of

MakeContext = Callable[..., AttackContext]
RECEIVED = {"w": torch.tensor([1.0, 1.0]), "n": torch.tensor(4)}
TRAINED = {"w": torch.tensor([1.3, 1.4]), "n": torch.tensor(9)}


def sent(attack: ModelReplacement, make_context: MakeContext, **changed: Any) -> list[float]:
    context = make_context(received=RECEIVED, weights=frozenset({"w"}), **changed)
    arrays = attack.craft(TRAINED, context)
    assert arrays["n"] == 9
    values: list[float] = arrays["w"].tolist()
    return values


def test_the_factor_makes_the_average_the_attackers_model(make_context: MakeContext) -> None:
    alone = sent(ModelReplacement(), make_context, attackers=(1,))
    assert alone == pytest.approx([4.0, 5.0])  # 1 + 10 * 0.3, 1 + 10 * 0.4
    honest = [RECEIVED["w"]] * 9  # who do not move
    average = torch.stack([*honest, torch.tensor(alone)]).mean(0)
    assert average.tolist() == pytest.approx(TRAINED["w"].tolist())
    pair = sent(ModelReplacement(), make_context)
    assert pair == pytest.approx([2.5, 3.0])
    slow = sent(ModelReplacement(server_rate=0.5), make_context)
    assert slow == pytest.approx([4.0, 5.0])
    assert sent(ModelReplacement(factor=3), make_context) == pytest.approx([1.9, 2.2])


def test_the_average_has_the_attackers_statistics_too(make_context: MakeContext) -> None:
    names = ("w", "norm.running_mean", "norm.running_var")
    received = {name: torch.tensor([2.0]) for name in names}
    trained = {
        name: torch.tensor([value]) for name, value in zip(names, (2.1, 3.0, 1.9), strict=True)
    }
    context = make_context(received=received, weights=frozenset({"w"}), attackers=(1,))
    sent = ModelReplacement().craft(trained, context)
    for name in names:
        average = (9 * received[name] + sent[name]) / 10  # nine honest clients do not move
        assert float(average) == pytest.approx(float(trained[name]))


def test_attackers_train_with_their_own_epochs_and_rate(make_context: MakeContext) -> None:
    norms = []
    for attack in (ModelReplacement(), ModelReplacement(epochs=3, learning_rate=1e-5)):
        context = make_context()
        model = context.received_model()
        attack.train(model, *context.data_of(1), context)
        norms.append(norm_of(update_of(model.state_dict(), context.received, context.weights)))
    assert 0 < norms[1] < 0.01 * norms[0]


def test_a_norm_bounds_the_factor(make_context: MakeContext) -> None:
    # The update's norm is 0.5: a bound of 2 lets it grow fourfold, where ten were wanted.
    bounded = sent(ModelReplacement(largest_norm=2), make_context, attackers=(1,))
    assert bounded == pytest.approx([2.2, 2.6])
    far = sent(ModelReplacement(largest_norm=100), make_context, attackers=(1,))
    assert far == pytest.approx([4.0, 5.0])


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_constraint_holds_the_model_near_the_received_one(
    distance: Any, make_context: MakeContext
) -> None:
    norms = []
    for alpha in (1.0, 0.2):
        context = make_context()
        model = context.received_model()
        attack = ConstrainAndScale(alpha=alpha, distance=distance)
        images, labels = attack.poison(*context.data_of(1), context)
        attack.train(model, images, labels, context)
        norms.append(norm_of(update_of(model.state_dict(), context.received, context.weights)))
    assert 0 < norms[1] < 0.8 * norms[0]


def test_alpha_weighs_cross_entropy_against_the_distance(make_context: MakeContext) -> None:
    context = make_context()
    images, labels = context.data_of(1)
    few = (images[:8], labels[:8])  # one batch, one step: at the start the distance is zero
    plain, mixed = context.received_model(), context.received_model()
    loss = context.training.fit(plain, *few)
    weighted = ConstrainAndScale(alpha=0.25).train(mixed, *few, make_context())
    assert weighted == pytest.approx(0.25 * loss)


@pytest.mark.parametrize(
    "fields",
    [
        {"factor": 0.0},
        {"largest_norm": -1.0},
        {"server_rate": 0.0},
        {"epochs": 0},
        {"learning_rate": 0.0},
    ],
)
def test_meaningless_fields_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        ModelReplacement(**fields)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha"):
        ConstrainAndScale(alpha=0)
