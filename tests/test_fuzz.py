"""A small budget for each target of `make fuzz`."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz_targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_the_answers_that_are_known(name: str) -> None:
    target = TARGETS[name]
    check = given(target.inputs)(target.holds)
    few = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    few(check)()
