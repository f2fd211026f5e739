from typing import Any

import pytest
import yaml

from simulations.scenario import ConfigError
from simulations.scenario.load import read_model
from simulations.scenario.scenario import Scenario
from simulations.scenario.training import Training
from simulations.training import Cosine, Listed, Step


def read(**training: Any) -> Scenario:
    return read_model(Scenario, {"name": "x", "training": training})


def test_steps_stand_for_epochs_and_both_survive_writing() -> None:
    scenario = read(steps=7)
    assert (scenario.training.epochs, scenario.training.steps) == (None, 7)
    assert read_model(Scenario, yaml.safe_load(scenario.to_yaml())) == scenario
    assert Training().epochs == 1


def test_schedules_are_read_and_written_by_name() -> None:
    for given, schedule in (
        ({"name": "step", "every": 5, "decay": 0.5}, Step(every=5, decay=0.5)),
        ({"name": "cosine", "floor": 0.1}, Cosine(floor=0.1)),
        ({"name": "list", "factors": [1, 0.5]}, Listed(factors=(1.0, 0.5))),
    ):
        scenario = read(**{"learning-rate-schedule": given})
        assert scenario.training.learning_rate_schedule == schedule
        assert yaml.safe_load(scenario.to_yaml())["training"]["learning-rate-schedule"] == given


def test_transforms_are_read_and_written() -> None:
    given = [{"name": "RandomRotation", "arguments": {"degrees": 15}}]
    scenario = read(transforms=given)
    assert yaml.safe_load(scenario.to_yaml())["training"]["transforms"] == given
    assert read_model(Scenario, yaml.safe_load(scenario.to_yaml())) == scenario


def test_the_rate_of_a_round_is_the_learning_rate_times_the_factor() -> None:
    training = Training(learning_rate=0.2, learning_rate_schedule=Step(every=1, decay=0.5))
    assert [training.rate(each, 3) for each in (1, 2, 3)] == [0.2, 0.1, 0.05]


@pytest.mark.parametrize(
    ("training", "fault"),
    [
        ({"epochs": 2, "steps": 9},
         "training.steps: are given beside 2 epochs, got 9; drop one of them"),
        ({"epochs": None},
         "training.epochs: null, and so are the steps; give one of them"),
        ({"nesterov": True, "momentum": 0},
         "training.nesterov: needs sgd with a momentum above 0, got sgd with momentum 0; "
         "drop it or change them"),
        ({"nesterov": True, "optimizer": "adam"},
         "training.nesterov: needs sgd with a momentum above 0, got adam with momentum 0.9; "
         "drop it or change them"),
        ({"optimizer": "lbfgs"}, "training.optimizer: input should be 'sgd', 'adam'"),
        ({"precision": "float16"}, "training.precision: input should be 'float32' or 'bfloat16'"),
        ({"max-gradient-norm": 0}, "training.max-gradient-norm: input should be greater than 0"),
        ({"steps": 0}, "training.steps: input should be greater than or equal to 1"),
        ({"augmentation": "turn"}, "training.augmentation: input should be 'none', 'crop'"),
        ({"transforms": [{"name": "RandomRotation"}]},
         "training.transforms.0: arguments of RandomRotation are refused"),
        ({"transforms": {"name": "RandomRotation"}}, "training.transforms: must be a list, got"),
        ({"learning-rate-schedule": {"name": "cosin"}},
         "training.learning-rate-schedule: 'cosin' is not one of constant, step, cosine, list"),
        ({"learning-rate-schedule": {"name": "list"}},
         "training.learning-rate-schedule.factors: is missing; add it"),
        ({"optimiser": "adam"}, "training.optimiser: unknown key; did you mean 'optimizer'?"),
    ],
)  # fmt: skip
def test_contradictions_and_misspellings_are_one_line(training: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**training)
    (said,) = caught.value.faults
    assert said.startswith(fault)
    assert "\n" not in said
