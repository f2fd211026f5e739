from collections.abc import Callable
from statistics import median

import pytest

from simulations.attack.context import AttackContext
from simulations.attack.honest_training import honest_arrays, honest_norm
from simulations.attack.pgd import PGD
from simulations.attack.updates import norm_of, update_of

MakeContext = Callable[..., AttackContext]


def norm_after(attack: PGD, context: AttackContext) -> float:
    model = context.received_model()
    images, labels = attack.poison(*context.data_of(context.partition), context)
    attack.train(model, images, labels, context)
    return norm_of(update_of(model.state_dict(), context.received, context.weights))


def test_the_update_ends_on_the_ball_and_training_goes_on_inside(
    make_context: MakeContext,
) -> None:
    free = norm_after(PGD(norm=1e6), make_context())
    assert free > 0.2
    assert norm_after(PGD(norm=0.1), make_context()) == pytest.approx(0.1, rel=1e-3)
    assert norm_after(PGD(norm=0.1, project_every=100), make_context()) == pytest.approx(0.1)
    assert norm_after(PGD(norm=0.1, norm_share=0.5), make_context()) == pytest.approx(0.05)


def test_an_unknown_norm_is_the_median_of_the_attackers_honest_updates(
    make_context: MakeContext,
) -> None:
    context = make_context(attackers=(1, 3, 4))
    norms = [
        norm_of(update_of(honest_arrays(context, each), context.received, context.weights))
        for each in (1, 3, 4)
    ]
    assert honest_norm(context) == pytest.approx(median(norms))
    assert honest_norm(make_context(attackers=(1, 3, 4), partition=4)) == honest_norm(context)
    slow = norm_after(PGD(norm_share=0.3), context)
    assert slow == pytest.approx(0.3 * median(norms), rel=1e-3)


@pytest.mark.parametrize("fields", [{"norm": 0.0}, {"norm_share": 0.0}, {"project_every": 0}])
def test_meaningless_fields_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        PGD(**fields)  # type: ignore[arg-type]
