from typing import Any

import pytest
import yaml

from simulations.scenario.fields import kebab
from simulations.scenario.overrides import apply_override
from simulations.scenario.scenario import Scenario


@pytest.mark.parametrize(
    ("part", "override", "kept", "told"),
    [
        (
            "attack: {name: badnets, malicious: [3], first-round: 2, poison-rate: 0.1, boost: 5}",
            "attack.name=dba",
            "{malicious: [3], first-round: 2, poison-rate: 0.1, boost: 5}",
            None,
        ),
        (
            "attack: {name: badnets, malicious: [3], first_round: 2, poison-rate: 0.1, boost: 5}",
            "attack.name=sign-flip",
            "{malicious: [3], first-round: 2}",
            "attack.name=sign-flip: poison-rate, boost of badnets dropped; "
            "set what sign-flip should have after its name",
        ),
        ("attack: {name: badnets, boost: 5}", "attack.name=none", "{}", None),
        ("data: {name: digits, max-train: 80}", "data.name=fashion-mnist", "{max-train: 80}", None),
        # Both have batch_size, each for itself; what was at its default is not missed.
        (
            "defense: [{name: clp}, {name: dhbe, batch-size: 8, student-lr: 0.001, precision: float32}]",
            "defense.1.name=bcu",
            "{}",
            "defense.1.name=bcu: batch-size of dhbe dropped; set what bcu should have after its name",
        ),
        (
            "backdoor: {trigger: {name: patch, size: 5}, target: 1}",
            "backdoor.trigger.name=bars",
            "{}",
            "backdoor.trigger.name=bars: size of patch dropped; "
            "set what bars should have after its name",
        ),
        (
            "repair: {verify: {name: trigger-search, steps: 3}}",
            "repair.verify.name=freeeagle",
            "{}",
            "repair.verify.name=freeeagle: steps of trigger-search dropped; "
            "set what freeeagle should have after its name",
        ),
    ],
)
def test_another_name_keeps_what_both_parts_have_from_one_base_and_tells_the_rest(
    part: str, override: str, kept: str, told: str | None
) -> None:
    content = yaml.safe_load(part)
    lines: list[str] = []
    apply_override(content, override, Scenario, tell=lines.append)
    *keys, _ = override.partition("=")[0].split(".")
    inner: Any = content
    for key in keys:
        inner = inner[int(key)] if key.isdigit() else inner[key]
    found = {kebab(key): value for key, value in inner.items()}
    assert found == {"name": override.partition("=")[2], **yaml.safe_load(kept)}
    assert lines == ([] if told is None else [told])


def test_anybodys_attack_keeps_who_is_malicious() -> None:
    content = yaml.safe_load("attack: {name: badnets, malicious: [3], boost: 5}")
    name = "simulations.attack.alie:ALIE"
    apply_override(content, f"attack.name={name}", Scenario)
    assert content["attack"] == {"name": name, "malicious": [3]}
    apply_override(content, "attack.name=nowhere:Attack", Scenario)
    assert content["attack"] == {"name": "nowhere:Attack"}
