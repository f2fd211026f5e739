import pytest
import torch

from simulations.training import Constant, Cosine, LearningRateSchedule, Listed, Step


def of_torch(kind: str, rounds: int, **settings: float) -> list[float]:
    """Factors of torch's own scheduler, one step a round."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = getattr(torch.optim.lr_scheduler, kind)(optimizer, **settings)
    factors = []
    for _ in range(rounds):
        factors += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Constant(), [1.0] * 7),
        (Step(every=3, decay=0.1), of_torch("StepLR", 7, step_size=3, gamma=0.1)),
        (Cosine(), of_torch("CosineAnnealingLR", 7, T_max=7)),
        (Cosine(floor=0.2), of_torch("CosineAnnealingLR", 7, T_max=7, eta_min=0.2)),
        (Listed(factors=(0.1, 1.0, 0.5)), [0.1, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_factors_are_those_of_torch(schedule: LearningRateSchedule, factors: list[float]) -> None:
    given = [schedule.factor(each, rounds=7) for each in range(1, 8)]
    assert given == pytest.approx(factors, rel=1e-6)
    assert given[0] == factors[0]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Step, {"every": 0}, "every must be at least 1, got 0"),
        (Step, {"decay": 0.0}, "decay must be positive, got 0"),
        (Step, {"decay": 1.5}, r"decay must be in \[0, 1\], got 1.5"),
        (Cosine, {"floor": -0.1}, r"floor must be in \[0, 1\], got -0.1"),
        (Listed, {"factors": ()}, r"factors must hold positive numbers, got \[\]"),
        (Listed, {"factors": (1.0, 0.0)}, r"factors must hold positive numbers, got \[1.0, 0.0\]"),
        (Listed, {"factors": (float("nan"),)}, "factors must hold positive numbers"),
    ],
)
def test_what_gives_no_rate_is_refused(
    kind: type, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)
