import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import attacks
from simulations.attack import ATTACKS
from simulations.scenario.load import load_scenario

ROOT = Path(__file__).parents[2]


def row(attack: str, variant: str, asr: float, seed: int = 0) -> dict[str, Any]:
    rates = {"accuracy": 0.9, "attack_success_rate": asr, "robust_accuracy": 1 - asr}
    return {
        "base": "b", "partition": "iid", "attack": attack, "variant": variant, "seed": seed,
        "last_three_rounds": {"released": rates}, "screens": {},
    }  # fmt: skip


def test_the_table_ends_with_each_defenses_worst_attack() -> None:
    rows = [
        row("dba", "none", 0.8), row("dba", "none", 0.6, seed=1), row("pgd", "none", 0.2),
        row("dba", "dhbe", 0.1), row("pgd", "dhbe", 0.3),
    ]  # fmt: skip
    lines = attacks.table_of(rows).splitlines()
    assert lines[2] == "| iid | dba | none | 0.900 | 0.700 | 0.300 | – | – | 2 |"
    assert lines[-2:] == [
        "| iid | **worst: dba** | none | 0.900 | 0.700 | 0.300 | – | – | 2 |",
        "| iid | **worst: pgd** | dhbe | 0.900 | 0.300 | 0.700 | – | – | 1 |",
    ]


def test_who_was_left_out_is_counted_over_seeds() -> None:
    count = {"left_out_malicious": 3, "kept_malicious": 1, "left_out_honest": 0, "kept_honest": 8}
    rows = [{**row("dba", "loop", 0.1, seed), "screens": {"Attribution": count}} for seed in (0, 1)]
    assert " | 6 of 8 | 0 of 16 | 2 |" in attacks.table_of(rows)


@pytest.mark.parametrize("attack", attacks.ATTACKS)
def test_every_attack_of_the_table_is_a_scenario(attack: str) -> None:
    for variant in attacks.VARIANTS.values():
        for partition in attacks.PARTITIONS.values():
            overrides = [*attacks.SMALL, *partition, *attacks.ATTACKS[attack], *variant]
            assert load_scenario(ROOT / attacks.BASE, overrides).malicious_clients


def test_what_is_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def measured(base: Path, settings: Any, partition: str, *key: Any) -> dict[str, Any]:
        asked.append(key[1])
        made = row("", "", 0.5)
        return {name: made[name] for name in ("last_three_rounds", "screens")}

    monkeypatch.setattr(attacks, "measure", measured)
    monkeypatch.setattr(attacks, "RESULTS", tmp_path)
    command = ["x", "--attacks", "dba", "--partitions", "iid", "--seeds", "0", "--variants"]
    monkeypatch.setattr("sys.argv", [*command, "no defense"])
    attacks.main()
    monkeypatch.setattr("sys.argv", [*command, "no defense", "MultiKrum"])
    attacks.main()
    assert asked == ["no defense", "MultiKrum"]
    lines = (tmp_path / "attacks.jsonl").read_text().splitlines()
    assert [json.loads(line)["variant"] for line in lines] == asked
    assert "worst: dba" in capsys.readouterr().out


def test_the_table_leaves_out_only_what_has_no_place_in_it() -> None:
    named = {
        re.sub(r"attack(\.name=|=\{name: )([\w-]+)}?", r"\2", some[0])
        for some in attacks.ATTACKS.values()
    }
    # Variants of those that are there, or too slow for a table: a repair in each attacked round.
    left = {"none", "constrain-and-scale", "gaussian-noise", "ipm", "repair-aware"}
    assert set(ATTACKS) - named == left
