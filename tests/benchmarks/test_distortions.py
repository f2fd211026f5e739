from pathlib import Path

import torch

from benchmarks import distortions
from benchmarks.victims import Farm, Setting


def test_the_table_tells_the_largest_gain_of_each_kind() -> None:
    place = {"data": "digits", "model": "small-cnn", "trigger": "clean"}
    rows = [
        place | {"seed": 0, "gains": {"noise": 1.0, "warp": 0.2}},
        place | {"seed": 1, "gains": {"noise": 0.5, "warp": 0.75}},
    ]
    assert distortions.table(rows).splitlines()[2:] == [
        "| digits | small-cnn | clean | 2 | 1.00 | 0.75 | 0.00 |"
    ]


def test_a_network_is_searched_with_its_seed(tmp_path: Path) -> None:
    farm = Farm(tmp_path, {}, torch.device("cpu"), max_test=50)
    setting = Setting(
        data="digits", trigger="clean", seed=0, model="small-cnn", max_train=80, epochs=1
    )
    row = distortions.search(farm, setting)
    assert set(row["gains"]) == set(row["classes"]) == set(distortions.FAMILIES)
    assert row == distortions.search(farm, setting)
