from dataclasses import replace

import pytest

from simulations.aggregators import (
    AGGREGATORS,
    Aggregator,
    Bulyan,
    FedAdam,
    FedAvgM,
    FedProx,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
)


@pytest.mark.parametrize(
    ("aggregator", "too_few", "enough"),
    [
        (FedTrimmedAvg(beta=0.2), 4, 5),  # int(0.2 n) values are cut off at each end
        (Krum(num_malicious=2), 6, 7),  # n > 2f + 2
        (MultiKrum(num_malicious=1), 4, 5),
        (MultiKrum(num_malicious=0, num_select=4), 3, 4),
        (Bulyan(num_malicious=1), 6, 7),  # n >= 4f + 3
    ],
    ids=repr,
)
def test_too_few_replies_are_refused_before_the_first_round(
    aggregator: Aggregator, too_few: int, enough: int
) -> None:
    with pytest.raises(ValueError, match=rf"\b{too_few}\b"):
        aggregator.check(too_few)
    aggregator.check(enough)
    aggregator.build(enough, enough)


def test_a_selection_of_none_is_refused_and_null_selects_all_but_the_malicious() -> None:
    with pytest.raises(ValueError, match=r"num-select must be in 1\.\.7 or null, got 0"):
        MultiKrum(num_select=0).check(7)
    built = MultiKrum(num_malicious=2).build(7, 7)
    assert built.num_nodes_to_select == 5  # type: ignore[attr-defined]


def test_a_mean_that_cuts_nothing_on_purpose_is_taken() -> None:
    FedTrimmedAvg(beta=0).check(2)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_a_round_asks_as_many_clients_as_said_and_waits_for_all(name: str) -> None:
    built = AGGREGATORS[name]().build(8, 16)
    assert built.fraction_train == 0.5  # type: ignore[attr-defined]
    assert built.min_train_nodes == 8  # type: ignore[attr-defined]
    assert built.min_available_nodes == 16  # type: ignore[attr-defined]
    assert built.fraction_evaluate == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("aggregator", "field", "value"),
    [
        (FedAvgM(), "server_momentum", 1.0),
        (FedAvgM(), "server_learning_rate", 0.0),
        (FedAdam(), "eta", 0.0),
        (FedAdam(), "tau", 0.0),
        (FedProx(), "proximal_mu", -0.1),
        (FedTrimmedAvg(), "beta", 0.5),
        (Krum(), "num_malicious", -1),
        (Bulyan(), "num_malicious", -1),
    ],
    ids=str,
)
def test_settings_without_meaning_are_refused(
    aggregator: Aggregator, field: str, value: float
) -> None:
    with pytest.raises(ValueError, match=field):
        replace(aggregator, **{field: value})  # type: ignore[type-var]
