"""A scenario: one experiment as one frozen value, read from YAML with every fault at once."""

from simulations.scenario.errors import ConfigError
from simulations.scenario.load import load_scenario, scenario_schema
from simulations.scenario.scenario import Clients, Repair, Scenario
from simulations.scenario.training import Training

__all__ = [
    "Clients",
    "ConfigError",
    "Repair",
    "Scenario",
    "Training",
    "load_scenario",
    "scenario_schema",
]
