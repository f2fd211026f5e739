import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fl_defense.inspections import FreeEagle
from fl_defense.inspections.freeeagle import FreeEagleFinding
from fl_defense.inspections.trigger_search import TriggerFinding
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.suspicion import AnomalyHistory, Monitor, SuspicionRule, calibrated_bound


def seen(anomaly: float, label: int) -> FreeEagleFinding:
    nothing = torch.empty(0)
    return FreeEagleFinding(
        posteriors=nothing, tendencies=nothing, anomaly=anomaly, suspected_class=label,
        cell_anomaly=0.0, suspected_source=0, dummies=nothing,
    )  # fmt: skip


def alarms(history: AnomalyHistory, rounds: list[tuple[float, int]]) -> list[bool]:
    return [history.add(seen(*found)) for found in rounds]


QUIET = [(2.0, 1), (2.2, 4), (1.9, 2), (2.1, 7), (2.0, 0)]


def test_an_outlier_is_an_alarm_when_it_suspects_the_same_class_again() -> None:
    history = AnomalyHistory(SuspicionRule())
    assert alarms(history, QUIET) == [False] * 5
    assert alarms(history, [(9.0, 3)]) == [False]
    assert alarms(history, [(9.0, 3), (9.0, 5), (9.0, 3)]) == [True, False, True]


def test_alarms_do_not_become_the_new_normal() -> None:
    history = AnomalyHistory(SuspicionRule())
    alarms(history, QUIET)
    history.add(seen(30.0, 3))
    assert all(alarms(history, [(30.0, 3)] * 40))
    assert len(history.quiet) == 6


def test_a_short_or_still_past_raises_no_alarm() -> None:
    assert not any(alarms(AnomalyHistory(SuspicionRule()), [(2.0, 1), (50.0, 1), (50.0, 1)]))
    assert not any(alarms(AnomalyHistory(SuspicionRule()), [(2.0, 1)] * 6 + [(2.5, 1)]))


def test_a_calibrated_bound_decides_at_once_and_alone() -> None:
    history = AnomalyHistory(SuspicionRule(bound=10.0))
    assert alarms(history, [(11.0, 1), (9.0, 2), (9.0, 2)]) == [True, False, False]
    assert not any(alarms(history, [*QUIET, (9.9, 2), (9.9, 2)]))


def test_the_bound_lets_the_wanted_share_of_benign_models_pass() -> None:
    benign = [float(value) for value in range(40)]
    bound = calibrated_bound(benign, 0.05)
    assert sum(value > bound for value in benign) == 2
    with pytest.raises(ValueError, match="needs at least 20 benign models, got 19; take more"):
        calibrated_bound(benign[:19], 0.05)


def test_an_anomaly_that_compares_with_nothing_is_refused() -> None:
    history = AnomalyHistory(SuspicionRule(bound=3.0))
    with pytest.raises(ValueError, match="the anomaly is nan"):
        history.add(seen(math.nan, 1))
    assert history.quiet == []


def test_an_anomaly_of_zero_has_a_logarithm() -> None:
    history = AnomalyHistory(SuspicionRule())
    history.add(seen(0.0, 1))
    assert math.isfinite(history.quiet[0])


@pytest.mark.parametrize("fields", [{"deviations": 0.0}, {"fewest": 1}, {"window": 3}])
def test_meaningless_alarms_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SuspicionRule(**fields)


def test_a_watch_remembers_in_its_state_alone(tiny_model: nn.Module, tiny_spec: ModelSpec) -> None:
    watch = Monitor(spec=tiny_spec, inspection=FreeEagle(steps=5, warm_steps=2))
    first, _, state = watch.look(tiny_model)
    kept = pickle.loads(pickle.dumps(state))
    second, _, later = watch.look(tiny_model, state)
    again, _, _ = watch.look(tiny_model, kept)
    found = [each.state["dummies"] for each in (first, second, again)]
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], found[1])
    assert len(later["quiet"]) == 2
    assert len(state["quiet"]) == 1


def test_what_is_certain_is_an_alarm_whatever_the_bound() -> None:
    nothing = torch.empty(0)
    noise = TriggerFinding(
        anomaly=3.5, kind="noise", suspected_class=2, flip_rate=1.0, place=(0, 0), patch=nothing
    )
    patch = replace(noise, kind="patch")
    for alarm in (SuspicionRule(bound=6.0), SuspicionRule()):
        history = AnomalyHistory(alarm)
        assert history.add(noise)
        assert history.quiet == []
        assert not history.add(patch)
